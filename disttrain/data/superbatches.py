"""Superbatches: the rows of several steps at a time, parsed in the background, in the epoch's order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from disttrain.data.epoch import EpochPlan
from disttrain.data.ranges import Range
from disttrain.data.reads import ReadAhead
from disttrain.data.row_cache import RowCache
from disttrain.data.row_source import Floats, Rows, RowSource
from disttrain.data.rows import CachedRows, PermutedRows
from disttrain.data.sharding import Sharding
from disttrain.threads import DaemonPool, Handover

JOIN_S = 1.0  # how long closing waits for a thread; one that still waits for a store ends when its reader is closed


@dataclass(frozen=True, eq=False)
class Superbatch:
    """Consecutive steps' rows: `data` is float32 `[num_steps, rows_per_step, columns]`, features before targets.

    The rest is what copying it to devices and training on it need to know.

    Attributes:
        data: the rows of this worker's shards.
        first_step: the step of the epoch that it begins with.
        global_rows: rows of all workers together in each step, int64 [num_steps].
        rows_of_replicas: how many of a step's rows, one after the other, go to each of this worker's replicas.
        steps_before: steps of the same superbatch that an earlier process took.
        is_full: whether every shard, of all workers, gives a whole batch: then all run the same compiled superstep.
        on_devices: what the stream's `copy` made of it.
    """

    data: Floats
    first_step: int
    global_rows: npt.NDArray[np.int64]
    rows_of_replicas: tuple[int, ...]
    steps_before: int = 0
    is_full: bool = True
    on_devices: Any = None

    @property
    def num_steps(self) -> int:
        """Steps that it holds."""
        return len(self.data)

    @property
    def stop_step(self) -> int:
        """The step after its last one."""
        return self.first_step + self.num_steps


class Superbatches:
    """The superbatches of an epoch, made in the background up to `depth` ahead; a context manager and an iterator.

    What fails in the background is raised by the `next` that would have got it.
    """

    def __init__(
        self,
        source: RowSource,
        plan: EpochPlan,
        cache: RowCache | None,
        copy: Callable[[Superbatch], Any] | None,
        *,
        depth: int,
        num_threads: int,
    ) -> None:
        self._source = source
        self._plan = plan
        self._cache = cache if cache is not None and cache.begin_epoch() else None
        self._copy = copy
        num_shards = max(len(plan.shards), 1)
        self._ahead = ReadAhead.of(source.block_bytes, source.max_block_bytes, num_shards, plan.order.mode)
        self._readers = DaemonPool(self._ahead.threads, "read")
        self._parsers = DaemonPool(min(num_shards, num_threads), "parse")
        self._permuters = DaemonPool(min(num_shards, num_threads), "parse-window")
        self._handover: Handover[Superbatch] = Handover(depth)
        self._thread = threading.Thread(target=self._produce, name="superbatches", daemon=True)
        self._thread.start()

    def __iter__(self) -> Superbatches:
        return self

    def __next__(self) -> Superbatch:
        return self._handover.get()

    def close(self) -> None:
        """Stops at once and drops what was made ahead; a second call does nothing."""
        self._handover.close()
        self._readers.close()
        self._parsers.close()
        self._permuters.close()
        self._thread.join(JOIN_S)

    def __enter__(self) -> Superbatches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _produce(self) -> None:
        try:
            shards = self._open_shards()
            for first_step, num_steps in self._plan.packs():
                superbatch = self._make(shards, first_step, num_steps)
                if self._copy is not None:
                    superbatch = replace(superbatch, on_devices=self._copy(superbatch))
                if not self._handover.put(superbatch):
                    return
            was_read = [shard.finish() for shard in shards]
            if any(was_read):
                self._source.check_unchanged()
            if self._cache is not None:
                self._cache.flush()
        except BaseException as error:
            self._handover.end(error)
        else:
            self._handover.end()

    def _open_shards(self) -> list[Rows]:
        plan, source = self._plan, self._source
        if plan.order.mode == "none":
            return [self._rows([plan.rows_left(shard)]) for shard in plan.shards]
        bounds = source.block_bounds
        max_rows = plan.max_window_rows(bounds, source.num_columns)

        def open_shard(shard: int) -> Rows:
            first_row = plan.rows_left(shard).start - plan.sharding.shard(shard).start
            windows = partial(plan.windows, shard, bounds, source.num_columns, first_row)
            rows = self._rows(rows for window in windows() for rows in window.ranges)
            return PermutedRows(
                rows,
                windows(),
                self._permuters,
                max_rows=max_rows,
                num_columns=source.num_columns,
                first_row=first_row,
            )

        return [open_shard(shard) for shard in plan.shards]

    def _rows(self, ranges: Iterable[Range]) -> Rows:
        if self._cache is None:
            return self._parsed(ranges)
        return CachedRows(self._cache, ranges, self._parsed, num_columns=self._source.num_columns)

    def _parsed(self, ranges: Iterable[Range]) -> Rows:
        ahead = self._ahead
        return self._source.rows(ranges, self._readers, block_bytes=ahead.block_bytes, num_ahead=ahead.num_ahead)

    def _make(self, shards: list[Rows], first_step: int, num_steps: int) -> Superbatch:
        plan = self._plan
        data = self._join(shards, plan.rows_of_shards(first_step), num_steps)
        return Superbatch(
            data,
            first_step,
            global_rows=plan.sharding.global_rows(first_step, num_steps),
            rows_of_replicas=plan.rows_of_replicas(first_step),
            steps_before=plan.steps_before(first_step),
            is_full=first_step < plan.sharding.num_full_steps,
        )

    def _join(self, shards: list[Rows], counts: list[int], num_steps: int) -> Floats:
        """Joins the shards' rows of some steps, one shard after the other: `[num_steps, rows_per_step, columns]`."""
        if len(counts) == 1:
            return shards[0].take(num_steps * counts[0]).reshape(num_steps, counts[0], self._source.num_columns)
        data = np.empty((num_steps, sum(counts), self._source.num_columns), np.float32)
        stops = np.cumsum(counts, dtype=int).tolist()
        parts = [data[:, stop - count : stop] for stop, count in zip(stops, counts, strict=True)]
        jobs = zip(shards, parts, strict=True)
        for job in [self._parsers.submit(partial(_fill, shard, part)) for shard, part in jobs]:
            job.result()
        return data


def superbatches(
    source: RowSource,
    plan: EpochPlan,
    *,
    cache: RowCache | None = None,
    copy: Callable[[Superbatch], Any] | None = None,
    depth: int = 2,
    num_threads: int = 2,
) -> Superbatches:
    """Streams what a worker gets of an epoch; use it in a `with` statement.

    A full step has `plan.rows_per_step` rows, the shards' batches joined in the shards' order. The epoch's last step,
    if any shard is short in it, comes alone: `[1, rows really there, columns]`, maybe 0 rows.

    Args:
        source: the rows.
        plan: the epoch's; with an order other than the file's, two windows of some MiB are held (see shuffle.py).
        cache: rows that it has are not parsed, others are added to it; a superbatch may then be a read-only map of it.
            A cache serves one epoch at a time.
        copy: called with each superbatch in the background, so that what it copies to a device is there before it is
            asked for.
        depth: superbatches that wait at most, besides the one that is made.
        num_threads: shards that are parsed at once, each by one thread.

    Raises:
        DataError: by iterating, for a faulty row; likewise FileChanged and StorageError.
    """
    return Superbatches(source, plan, cache, copy, depth=depth, num_threads=num_threads)


@dataclass(frozen=True)
class Feed:
    """Rows that a worker reads epoch after epoch: a source, the plan of its epochs, and what keeps its parsed rows.

    Up to `num_threads` shards are parsed at a time.
    """

    source: RowSource
    plan: EpochPlan
    cache: RowCache | None = None
    num_threads: int = 2

    @property
    def sharding(self) -> Sharding:
        """How the rows are dealt to the workers."""
        return self.plan.sharding

    @property
    def full_shape(self) -> tuple[int, int, int] | None:
        """The shape of full superbatches, (steps, rows_per_step, columns), or None if the file is too short for one."""
        steps = self.plan.full_steps
        return (steps, self.plan.rows_per_step, self.source.num_columns) if steps else None

    def stream(
        self, epoch: int = 1, start_step: int = 0, copy: Callable[[Superbatch], Any] | None = None
    ) -> Superbatches:
        """Streams the superbatches from a step of an epoch on, read and copied ahead, in a `with` statement."""
        plan = self.plan.of_epoch(epoch, start_step)
        return superbatches(self.source, plan, cache=self.cache, copy=copy, num_threads=self.num_threads)


def _fill(shard: Rows, part: Floats) -> None:
    """Puts a shard's rows into its part `[steps, rows, columns]` of a superbatch."""
    if part.flags.c_contiguous:
        shard.fill(part.reshape(-1, part.shape[2]))  # [steps * rows, columns]
        return
    scratch = np.empty(part.shape, np.float32)
    shard.fill(scratch.reshape(-1, part.shape[2]))  # [steps * rows, columns]
    part[:] = scratch
