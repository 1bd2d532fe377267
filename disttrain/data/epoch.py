"""The plan of an epoch: its steps, their rows, and the superbatches in which a worker gets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from disttrain.data.ranges import Range
from disttrain.data.sharding import Sharding, shards_of_rank
from disttrain.data.shuffle import FILE_ORDER, EpochOrder, Window, shard_windows, window_blocks

# A superbatch of 2 MiB is about 1,000 steps of the job: 18 ms of work for one trip from Python into TensorFlow.
SUPERBATCH_BYTES = 2 << 20
MAX_STEPS_PER_SUPERBATCH = 4096


@dataclass(frozen=True)
class EpochPlan:
    """Which rows one worker trains on, step by step, from `start_step` of an epoch on.

    The worker holds `shards`, and deals the rows of each step to `num_replicas` of the model, shard by shard. Steps are
    handed over in superbatches of up to `steps_per_superbatch`. `order` says how the epoch's rows are drawn, and which
    epoch it is.
    """

    sharding: Sharding
    shards: range
    steps_per_superbatch: int
    order: EpochOrder = FILE_ORDER
    start_step: int = 0
    num_replicas: int = 1

    def of_epoch(self, epoch: int, start_step: int = 0) -> EpochPlan:
        """Returns the plan of another epoch, counted from 1."""
        return replace(self, order=replace(self.order, epoch=epoch), start_step=start_step)

    @property
    def rows_per_step(self) -> int:
        """Rows that this worker gives to a full step."""
        return len(self.shards) * self.sharding.batch_size

    @property
    def superbatch_steps(self) -> int:
        """Steps of a full superbatch."""
        return min(self.steps_per_superbatch, self.sharding.num_steps)

    @property
    def full_steps(self) -> int:
        """Steps of a superbatch of full steps: 0 where the file is too short to give one."""
        return min(self.superbatch_steps, self.sharding.num_full_steps)

    def packs(self) -> Iterator[tuple[int, int]]:
        """Yields (first step, number of steps) of each superbatch.

        The same on every rank: full steps are packed; the step in which any shard of the file is short stands alone.
        Wherever it starts, superbatches end where those from step 0 on do.
        """
        size, full = self.superbatch_steps, self.sharding.num_full_steps
        first = self.start_step
        while first < full:
            stop = min(first - first % size + size, full)
            yield first, stop - first
            first = stop
        for step in range(max(full, self.start_step), self.sharding.num_steps):
            yield step, 1

    def steps_before(self, first_step: int) -> int:
        """Steps between where a superbatch would begin in a whole epoch and where it does begin."""
        return first_step % self.superbatch_steps if first_step < self.sharding.num_full_steps else 0

    def rows_of_shards(self, step: int) -> list[int]:
        """Returns how many rows each of the held shards gives to a step."""
        return [len(self.sharding.shard_step(shard, step)) for shard in self.shards]

    def rows_of_replicas(self, step: int) -> tuple[int, ...]:
        """Returns how many rows of a step each of this worker's replicas gets: those of its part of the held shards."""
        held = (shards_of_rank(len(self.shards), self.num_replicas, replica) for replica in range(self.num_replicas))
        return tuple(self.sharding.rows_of((self.shards[number] for number in numbers), step) for numbers in held)

    def rows_left(self, shard: int) -> Range:
        """Returns a shard's rows from `start_step` on, as they are counted in the epoch's order."""
        return Range(self.sharding.shard_step(shard, self.start_step).start, self.sharding.shard(shard).stop)

    def windows(
        self, shard: int, block_bounds: npt.NDArray[np.int64], num_columns: int, first_row: int
    ) -> Iterator[Window]:
        """Yields the windows of a shuffled shard, beginning with the one that holds row `first_row` of the shard."""
        num_shards = self.sharding.num_shards
        num_blocks = window_blocks(block_bounds, num_shards, num_columns)
        return shard_windows(self.order, block_bounds, num_shards, shard, num_blocks, first_row)

    def max_window_rows(self, block_bounds: npt.NDArray[np.int64], num_columns: int) -> int:
        """Returns the most rows that a window can have."""
        num_blocks = window_blocks(block_bounds, self.sharding.num_shards, num_columns)
        return min(num_blocks * int(np.diff(block_bounds).max()), len(self.sharding.shard(0)))


def steps_per_superbatch(num_columns: int, shards_held: int, batch_size: int, wanted: int | None, multiple: int) -> int:
    """Steps that are handed to the engine together: `wanted`, or what SUPERBATCH_BYTES hold, rounded up to a multiple.

    The same on every rank if `shards_held` is the most that any rank holds.
    """
    bytes_per_step = batch_size * shards_held * num_columns * 4
    steps = wanted or min(max(SUPERBATCH_BYTES // bytes_per_step, 1), MAX_STEPS_PER_SUPERBATCH)
    return -(-steps // multiple) * multiple
