"""Decides who reads which rows, by integer arithmetic alone: shards of a file, shards of a rank, rows of a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from disttrain.data.ranges import Range
from disttrain.errors import UsageError


def check_shard(shard: int, num_shards: int) -> None:
    """Raises UsageError unless there is a shard of this number, counted from 0."""
    if not 0 <= shard < num_shards:
        raise UsageError(f"shard is {shard}, expected 0 to {num_shards - 1} for num_shards {num_shards}")


def shard_range(num_rows: int, num_shards: int, shard: int) -> Range:
    """Returns the contiguous rows of one shard; shards differ by at most one row, and the longer ones come first."""
    short, num_long = divmod(num_rows, num_shards)
    start = shard * short + min(shard, num_long)
    return Range(start, start + short + (shard < num_long))


def shard_bounds(num_rows: int, num_shards: int) -> npt.NDArray[np.int64]:
    """Returns where each shard's rows begin, as in `shard_range`, and where the last one's end, int64 [shards + 1]."""
    short, num_long = divmod(num_rows, num_shards)
    shards = np.arange(num_shards + 1, dtype=np.int64)
    return shards * short + np.minimum(shards, num_long)


def shards_of_rank(num_shards: int, world_size: int, rank: int) -> range:
    """Returns the contiguous shards that one rank holds; ranks differ by at most one shard, and may hold none."""
    held = shard_range(num_shards, world_size, rank)
    return range(held.start, held.stop)


@dataclass(frozen=True)
class Sharding:
    """How an epoch's `num_rows` are dealt: `num_shards` equal, contiguous shards, `batch_size` rows of each a step.

    Rows are counted in the epoch's order. The global batch of a step joins what every shard gives to it.
    """

    num_rows: int
    num_shards: int
    batch_size: int

    @property
    def num_steps(self) -> int:
        """Steps of an epoch, the same for every rank: the longest shard's rows over the batch size, rounded up."""
        return -(-len(self.shard(0)) // self.batch_size)

    @property
    def num_full_steps(self) -> int:
        """Leading steps to which every shard gives `batch_size` rows: all of an epoch's steps, or all but the last."""
        return len(self.shard(self.num_shards - 1)) // self.batch_size

    def most_rows_per_step(self, world_size: int) -> int:
        """Rows of a full step on the rank that holds most shards."""
        return len(shards_of_rank(self.num_shards, world_size, 0)) * self.batch_size

    def shard(self, shard: int) -> Range:
        """Returns the rows of one shard."""
        return shard_range(self.num_rows, self.num_shards, shard)

    def shard_step(self, shard: int, step: int) -> Range:
        """Returns the rows that one shard gives to one step; empty beyond the shard's end."""
        rows = self.shard(shard)
        start = min(rows.start + step * self.batch_size, rows.stop)
        return Range(start, min(start + self.batch_size, rows.stop))

    def rows_of(self, shards: Iterable[int], step: int) -> int:
        """Returns how many rows these shards together give to a step."""
        return sum(len(self.shard_step(shard, step)) for shard in shards)

    def rows_in_step(self, step: int) -> int:
        """Rows that really are in the global batch of a step: fewer than a full one only in an epoch's last step."""
        return self.rows_of(range(self.num_shards), step)

    def global_rows(self, first_step: int, num_steps: int) -> npt.NDArray[np.int64]:
        """Rows in the global batch of each of `num_steps` steps from `first_step` on, int64 [num_steps]."""
        rows = np.full(num_steps, self.num_shards * self.batch_size, np.int64)
        for step in range(max(first_step, self.num_full_steps), first_step + num_steps):
            rows[step - first_step] = self.rows_in_step(step)
        return rows
