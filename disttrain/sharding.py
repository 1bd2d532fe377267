"""Who reads which rows: shards of a file, shards of a rank, rows of a step. Pure arithmetic over integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """The half-open range of rows [start, stop)."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def shard_range(num_rows: int, num_shards: int, shard: int) -> Range:
    """The contiguous rows of one shard; shards differ by at most one row, the longer ones come first."""
    short, num_long = divmod(num_rows, num_shards)
    start = shard * short + min(shard, num_long)
    return Range(start, start + short + (shard < num_long))


def shards_of_rank(num_shards: int, world_size: int, rank: int) -> range:
    """The contiguous shards that one rank holds; ranks differ by at most one shard, and may hold none."""
    held = shard_range(num_shards, world_size, rank)
    return range(held.start, held.stop)


def num_steps(num_rows: int, num_shards: int, batch_size: int) -> int:
    """Steps of an epoch, the same for every rank: the longest shard's rows over the batch size, rounded up."""
    return -(-len(shard_range(num_rows, num_shards, 0)) // batch_size)


def num_full_steps(num_rows: int, num_shards: int, batch_size: int) -> int:
    """Leading steps to which every shard gives `batch_size` rows: all of an epoch's steps, or all but the last."""
    return len(shard_range(num_rows, num_shards, num_shards - 1)) // batch_size


def rows_in_step(num_rows: int, num_shards: int, batch_size: int, step: int) -> int:
    """Rows that really are in the global batch of a step: less than a full one only in an epoch's last step."""
    return rank_rows_in_step(num_rows, num_shards, batch_size, range(num_shards), step)


def rank_rows_in_step(num_rows: int, num_shards: int, batch_size: int, shards: Iterable[int], step: int) -> int:
    """Rows that these shards together give to a step."""
    return sum(len(shard_step(num_rows, num_shards, batch_size, shard, step)) for shard in shards)


def shard_step(num_rows: int, num_shards: int, batch_size: int, shard: int, step: int) -> Range:
    """The rows that one shard gives to one step; empty beyond the shard's end."""
    rows = shard_range(num_rows, num_shards, shard)
    start = min(rows.start + step * batch_size, rows.stop)
    return Range(start, min(start + batch_size, rows.stop))
