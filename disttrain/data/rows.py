"""Rows in the order in which they are wanted: from the cache where it has them, and permuted by windows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial

import numpy as np

from disttrain.data.ranges import Range
from disttrain.data.row_cache import RowCache
from disttrain.data.row_source import Floats, Rows
from disttrain.data.shuffle import Window, permute_rows
from disttrain.threads import DaemonPool


class CachedRows:
    """The rows of some ranges: those in the cache are read from it, the others come from `parse` and are cached."""

    def __init__(
        self, cache: RowCache, ranges: Iterable[Range], parse: Callable[[Iterable[Range]], Rows], *, num_columns: int
    ) -> None:
        self._cache = cache
        self._ranges = iter(ranges)
        self._num_columns = num_columns
        self._parts: deque[tuple[Range, bool]] = deque()  # the next parts, each with whether it is cached
        self._missing: deque[Range] = deque()  # uncached parts that `parse` has not yet asked for
        self._parsed = parse(self._to_parse())

    def fill(self, out: Floats) -> None:
        """Reads or parses the next `len(out)` rows."""
        filled = 0
        while filled < len(out):
            rows, is_kept = self._next_part(len(out) - filled)
            part = out[filled : filled + len(rows)]
            if is_kept:
                self._cache.read_into(rows.start, part)
            else:
                self._parsed.fill(part)
                self._cache.write(rows.start, part)
            filled += len(rows)

    def take(self, num_rows: int) -> Floats:
        """Returns the next rows, as a mapping of the cache if it has all of them side by side."""
        while not self._parts and self._look_ahead():
            pass
        if num_rows and self._parts:
            rows, is_kept = self._parts[0]
            if is_kept and len(rows) >= num_rows:
                return self._cache.view(self._next_part(num_rows)[0])
        return _filled(self, num_rows, self._num_columns)

    def finish(self) -> bool:
        """Returns whether any rows were parsed; FileChanged if the file's rows differ from the index."""
        return self._parsed.finish()

    def _next_part(self, num_rows: int) -> tuple[Range, bool]:
        """Returns up to `num_rows` of the next rows, either all cached or all not, and which of the two it is."""
        while not self._parts and self._look_ahead():
            pass
        rows, is_kept = self._parts.popleft()
        stop = min(rows.start + num_rows, rows.stop)
        if stop < rows.stop:
            self._parts.appendleft((Range(stop, rows.stop), is_kept))
        return Range(rows.start, stop), is_kept

    def _look_ahead(self) -> bool:
        """Looks up which rows of the next range are cached; returns False after the last range."""
        rows = next(self._ranges, None)
        if rows is not None:
            parts = self._cache.split(rows)
            self._parts.extend(parts)
            self._missing.extend(part for part, is_kept in parts if not is_kept)
        return rows is not None

    def _to_parse(self) -> Iterator[Range]:
        while self._missing or self._look_ahead():
            while self._missing:
                yield self._missing.popleft()


class PermutedRows:
    """The rows of some windows, each permuted; the next window is made in `pool` while the current one is used.

    Holds two windows at a time, each of up to `max_rows`. `rows` gives the rows of the windows' ranges in turn. The
    rows before `first_row` in the shard's order are skipped.
    """

    def __init__(
        self,
        rows: Rows,
        windows: Iterator[Window],
        pool: DaemonPool,
        *,
        max_rows: int,
        num_columns: int,
        first_row: int = 0,
    ) -> None:
        self._rows = rows
        self._windows = windows
        self._pool = pool
        self._first_row = first_row
        self._buffers = [np.empty((max_rows, num_columns), np.float32) for _ in range(2)]  # in use, being filled
        self._window = self._buffers[0][:0]
        self._position = 0
        self._next = self._begin_window()

    def fill(self, out: Floats) -> None:
        """Copies the next `len(out)` rows into `out`; raises what making their window raised."""
        filled = 0
        while filled < len(out):
            rest = self._window[self._position : self._position + len(out) - filled]
            out[filled : filled + len(rest)] = rest
            filled += len(rest)
            self._position += len(rest)
            if filled < len(out):
                self._next_window()

    def take(self, num_rows: int) -> Floats:
        """Returns the next rows in a new array."""
        return _filled(self, num_rows, self._window.shape[1])

    def finish(self) -> bool:
        """Returns whether the file was read; FileChanged if its rows differ from the index."""
        return self._rows.finish()

    def _next_window(self) -> None:
        assert self._next is not None, "no more rows are asked for than the windows have"
        window, made = self._next
        self._window = made.result()
        self._position = max(self._first_row - window.first_row, 0)
        self._buffers.reverse()
        self._next = self._begin_window()

    def _begin_window(self) -> tuple[Window, Future[Floats]] | None:
        window = next(self._windows, None)
        return None if window is None else (window, self._pool.submit(partial(self._make, window, self._buffers[1])))

    def _make(self, window: Window, buffer: Floats) -> Floats:
        rows = buffer[: window.num_rows]
        self._rows.fill(rows)
        permute_rows(rows, window.key)
        return rows


def _filled(rows: Rows, num_rows: int, num_columns: int) -> Floats:
    out = np.empty((num_rows, num_columns), np.float32)
    rows.fill(out)
    return out
