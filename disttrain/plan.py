"""The plan of one pass over a file: its steps, their rows, and the superbatches in which they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from disttrain.epoch_cache import RowCache
from disttrain.sharding import num_full_steps, num_steps, rank_rows_in_step, rows_in_step, shards_of_rank
from disttrain.shuffle import FILE_ORDER, EpochOrder
from disttrain.source import Source
from disttrain.stream import Superbatch, superbatches

# A superbatch of 2 MiB is about 1,000 steps of the job: 18 ms of work for one trip from Python into TensorFlow.
SUPERBATCH_BYTES = 2 << 20
MAX_STEPS_PER_EXECUTION = 4096


@dataclass(frozen=True)
class Pass:
    """One way through one file: the same shards and steps in every epoch; `order` says how their rows are drawn.

    `cache`, if there is one, keeps the parsed rows from one epoch to the next. Up to `num_threads` shards are parsed at
    a time.
    """

    source: Source
    num_shards: int
    batch_size: int
    steps_per_execution: int
    order: EpochOrder = FILE_ORDER
    cache: RowCache | None = None
    num_threads: int = 2

    @property
    def num_steps(self) -> int:
        """Steps of an epoch, the same on every rank."""
        return num_steps(self.source.num_rows, self.num_shards, self.batch_size)

    def stream(
        self,
        shards: range,
        epoch: int = 1,
        start_step: int = 0,
        place: Callable[[Superbatch], Any] | None = None,
    ) -> AbstractContextManager[Iterator[Superbatch]]:
        """The superbatches of these shards from a step of an epoch on, read and placed ahead.

        Its threads stop when it is left.
        """
        return superbatches(
            self.source,
            shards=shards,
            num_shards=self.num_shards,
            batch_size=self.batch_size,
            steps_per_superbatch=self._steps_per_superbatch,
            start_step=start_step,
            order=replace(self.order, epoch=epoch),
            cache=self.cache,
            place=place,
            num_threads=self.num_threads,
        )

    def global_rows(self, first_step: int, count: int) -> npt.NDArray[np.int64]:
        """Rows in the global batch of each of `count` steps, int64 [count]."""
        rows = np.full(count, self.num_shards * self.batch_size, np.int64)
        num_full = num_full_steps(self.source.num_rows, self.num_shards, self.batch_size)
        for step in range(max(first_step, num_full), first_step + count):
            rows[step - first_step] = rows_in_step(self.source.num_rows, self.num_shards, self.batch_size, step)
        return rows

    def full_shape(self, shards: range) -> tuple[int, int, int] | None:
        """The shape of these shards' full superbatches, or None if the file is too short to give one."""
        num_full = num_full_steps(self.source.num_rows, self.num_shards, self.batch_size)
        steps = min(self.steps_per_execution, self.num_steps, num_full)
        return (steps, len(shards) * self.batch_size, self.source.num_columns) if steps else None

    def rows_of_replicas(self, shards: range, num_replicas: int, step: int) -> tuple[int, ...]:
        """How many rows of a step each of one worker's replicas gets: those of its part of the worker's shards."""
        held = (shards_of_rank(len(shards), num_replicas, replica) for replica in range(num_replicas))
        num_rows = self.source.num_rows
        return tuple(
            rank_rows_in_step(num_rows, self.num_shards, self.batch_size, (shards[n] for n in numbers), step)
            for numbers in held
        )

    def steps_before(self, superbatch: Superbatch) -> int:
        """Steps between where this superbatch would begin in a whole epoch and where it does begin."""
        num_full = num_full_steps(self.source.num_rows, self.num_shards, self.batch_size)
        return superbatch.first_step % self._steps_per_superbatch if superbatch.first_step < num_full else 0

    @property
    def _steps_per_superbatch(self) -> int:
        return min(self.steps_per_execution, self.num_steps)

    def is_full(self, shards: range, superbatch: Superbatch) -> bool:
        """Whether each of these shards gives a whole batch to each of the superbatch's steps."""
        return bool(superbatch.data.shape[1] == len(shards) * self.batch_size)


def steps_per_superbatch(
    source: Source, shards_held: int, batch_size: int, wanted: int | None, multiple_of: int
) -> int:
    """Steps that are handed to the engine together: `wanted`, or what SUPERBATCH_BYTES hold, rounded up to a multiple.

    The same on every rank if `shards_held` is the most that any rank holds.
    """
    bytes_per_step = batch_size * shards_held * source.num_columns * 4
    steps = wanted or min(max(SUPERBATCH_BYTES // bytes_per_step, 1), MAX_STEPS_PER_EXECUTION)
    return -(-steps // multiple_of) * multiple_of
