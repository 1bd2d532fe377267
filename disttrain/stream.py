"""From a source to superbatches: the held shards' rows, parsed ahead in the background, in the epoch's order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from disttrain.epoch_cache import RowCache
from disttrain.index import CHUNK_BYTES
from disttrain.rows import CachedRows, Floats, ParsedRows, PermutedRows, Rows
from disttrain.sharding import Range, num_full_steps, num_steps, shard_range, shard_step
from disttrain.shuffle import FILE_ORDER, EpochOrder, block_bounds, shard_windows, window_blocks
from disttrain.source import Source
from disttrain.storage import check_unchanged
from disttrain.threads import DaemonPool, Handover

READ_AHEAD_BYTES = 32 << 20  # what the read-ahead of all held shards may take together
MIN_BLOCK_BYTES = 64 << 10  # smaller reads cost more in calls than they save in memory
MAX_READ_THREADS = 8
INDEX_BLOCK_BYTES = CHUNK_BYTES + (64 << 10)  # a block of the index and the rest of its last line: one read
JOIN_S = 1.0  # how long closing waits for a thread; one that still waits for a store ends when its reader is closed


@dataclass(frozen=True, eq=False)
class Superbatch:
    """Consecutive steps' rows: `data` is float32 `[num_steps, rows_per_step, columns]`, features before targets.

    `on_devices` is what the stream's `place` made of it.
    """

    data: Floats
    first_step: int
    on_devices: Any = None

    @property
    def num_steps(self) -> int:
        """Steps that it holds."""
        return len(self.data)


@dataclass(frozen=True)
class Epoch:
    """Which steps are streamed, and how: `shards` of `num_shards`, each giving `batch_size` rows to a step."""

    num_rows: int
    num_shards: int
    shards: range
    batch_size: int
    steps_per_superbatch: int
    start_step: int = 0
    order: EpochOrder = FILE_ORDER

    def packs(self) -> Iterator[tuple[int, int]]:
        """(first step, number of steps) of each superbatch.

        The same on every rank: full steps are packed; the step in which any shard of the file is short stands alone.
        Wherever it starts, superbatches end where those from step 0 on do.
        """
        full = num_full_steps(self.num_rows, self.num_shards, self.batch_size)
        first = self.start_step
        while first < full:
            stop = min(first - first % self.steps_per_superbatch + self.steps_per_superbatch, full)
            yield first, stop - first
            first = stop
        for step in range(max(full, self.start_step), num_steps(self.num_rows, self.num_shards, self.batch_size)):
            yield step, 1

    def places(self, shard: int) -> Range:
        """The places in the epoch's order of a shard's rows from `start_step` on."""
        start = shard_step(self.num_rows, self.num_shards, self.batch_size, shard, self.start_step).start
        return Range(start, shard_range(self.num_rows, self.num_shards, shard).stop)

    def step_rows(self, shard: int, step: int) -> int:
        """Rows that a shard gives to a step."""
        return len(shard_step(self.num_rows, self.num_shards, self.batch_size, shard, step))


class Superbatches:
    """The superbatches of an epoch, made in the background up to `depth` ahead; a context manager and an iterator.

    What fails in the background is raised by the `next` that would have got it.
    """

    def __init__(
        self,
        source: Source,
        epoch: Epoch,
        cache: RowCache | None,
        place: Callable[[Superbatch], Any] | None,
        *,
        depth: int,
        num_threads: int,
    ) -> None:
        self._source = source
        self._place = place
        self._cache = cache if cache is not None and cache.begin_epoch() else None
        self._epoch = epoch
        num_shards = max(len(epoch.shards), 1)
        self._block_bytes = min(source.reader.block_bytes, max(READ_AHEAD_BYTES // (2 * num_shards), MIN_BLOCK_BYTES))
        self._num_ahead = 1
        if epoch.order.mode != "none":  # no longer reads, but as many bytes of them at a time
            block_bytes = min(self._block_bytes, INDEX_BLOCK_BYTES)
            self._block_bytes, self._num_ahead = block_bytes, self._block_bytes // block_bytes
        self._readers = DaemonPool(min(num_shards * self._num_ahead, MAX_READ_THREADS), "read")
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
        """Stop at once and let go of what was made ahead; a second call does nothing."""
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
            for first_step, steps in self._epoch.packs():
                superbatch = Superbatch(self._pack(shards, first_step, steps), first_step)
                if self._place is not None:
                    superbatch = replace(superbatch, on_devices=self._place(superbatch))
                if not self._handover.put(superbatch):
                    return
            was_read = [shard.finish() for shard in shards]
            if any(was_read):
                check_unchanged(self._source.info)
            if self._cache is not None:
                self._cache.flush()
        except BaseException as error:
            self._handover.end(error)
        else:
            self._handover.end()

    def _open_shards(self) -> list[Rows]:
        epoch, source = self._epoch, self._source
        if epoch.order.mode == "none":
            return [self._rows([epoch.places(shard)]) for shard in epoch.shards]
        bounds = block_bounds(source.index.rows, source.num_rows)
        num_blocks = window_blocks(bounds, epoch.num_shards, source.num_columns)
        max_rows = min(num_blocks * int(np.diff(bounds).max()), len(shard_range(epoch.num_rows, epoch.num_shards, 0)))

        def open_shard(shard: int) -> Rows:
            first_row = epoch.places(shard).start - shard_range(epoch.num_rows, epoch.num_shards, shard).start
            windows = partial(shard_windows, epoch.order, bounds, epoch.num_shards, shard, num_blocks, first_row)
            rows = self._rows(rows for window in windows() for rows in window.ranges)
            return PermutedRows(
                rows,
                windows(),
                self._permuters,
                max_rows=max_rows,
                num_columns=source.num_columns,
                first_row=first_row,
            )

        return [open_shard(shard) for shard in epoch.shards]

    def _rows(self, ranges: Iterable[Range]) -> Rows:
        if self._cache is None:
            return self._parsed(ranges)
        return CachedRows(self._cache, ranges, self._parsed, num_columns=self._source.num_columns)

    def _parsed(self, ranges: Iterable[Range]) -> Rows:
        return ParsedRows(self._source, ranges, self._readers, block_bytes=self._block_bytes, num_ahead=self._num_ahead)

    def _pack(self, shards: list[Rows], first_step: int, steps: int) -> Floats:
        """The rows of some steps, float32 `[steps, rows_per_step, columns]`: in each, one shard after the other."""
        counts = [self._epoch.step_rows(shard, first_step) for shard in self._epoch.shards]
        if len(counts) == 1:
            return shards[0].take(steps * counts[0]).reshape(steps, counts[0], self._source.num_columns)
        data = np.empty((steps, sum(counts), self._source.num_columns), np.float32)
        stops = np.cumsum(counts, dtype=int).tolist()
        parts = [data[:, stop - count : stop] for stop, count in zip(stops, counts, strict=True)]
        jobs = zip(shards, parts, strict=True)
        for job in [self._parsers.submit(partial(_fill, shard, part)) for shard, part in jobs]:
            job.result()
        return data


def superbatches(
    source: Source,
    *,
    shards: range,
    num_shards: int,
    batch_size: int,
    steps_per_superbatch: int,
    start_step: int = 0,
    order: EpochOrder = FILE_ORDER,
    cache: RowCache | None = None,
    place: Callable[[Superbatch], Any] | None = None,
    depth: int = 2,
    num_threads: int = 2,
) -> Superbatches:
    """Stream the held `shards` of an epoch of `num_shards`, from `start_step` on; use it in a `with` statement.

    A full step has `len(shards) * batch_size` rows, the shards' batches joined in the shards' order, and up to
    `steps_per_superbatch` of them make a superbatch. The epoch's last step, if any shard is short in it, comes alone:
    `[1, rows really there, columns]`, maybe 0 rows. At most `depth` superbatches wait besides the one that is made.
    With an `order` other than the file's, two windows of some MiB are held as well (see shuffle.py). Rows that `cache`
    has are not parsed, others are added to it; a superbatch may then be a read-only map of it. A cache serves one epoch
    at a time. One thread parses a shard, and up to `num_threads` shards are parsed at once. `place` is called with each
    superbatch in the background, so that what it copies to a device is there before it is asked for.
    Iterating raises DataError for a faulty row, FileChanged, StorageError.
    """
    epoch = Epoch(source.num_rows, num_shards, shards, batch_size, steps_per_superbatch, start_step, order)
    return Superbatches(source, epoch, cache, place, depth=depth, num_threads=num_threads)


def _fill(shard: Rows, part: Floats) -> None:
    """Put a shard's rows into its part `[steps, rows, columns]` of a superbatch."""
    if part.flags.c_contiguous:
        shard.fill(part.reshape(-1, part.shape[2]))  # [steps * rows, columns]
        return
    scratch = np.empty(part.shape, np.float32)
    shard.fill(scratch.reshape(-1, part.shape[2]))  # [steps * rows, columns]
    part[:] = scratch
