"""Rows in the order in which they are wanted: ranges of the file, parsed or from the cache, and permuted by windows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from disttrain.digits import DigitLoss, find_losses
from disttrain.epoch_cache import RowCache
from disttrain.errors import DataError, FileChanged
from disttrain.parsing import ParseFault, parse_rows
from disttrain.readahead import Block, line_blocks
from disttrain.sharding import Range
from disttrain.shuffle import Window, permute_rows
from disttrain.source import Source
from disttrain.storage import check_unchanged
from disttrain.threads import DaemonPool

FIRST_BLOCK_BYTES = 1 << 16

Floats = npt.NDArray[np.float32]


class Rows(Protocol):
    """Rows that come one after another."""

    def fill(self, out: Floats) -> None:
        """Put the next `len(out)` rows into `out`, float32 `[rows, columns]`, C-contiguous."""

    def take(self, num_rows: int) -> Floats:
        """The next rows as float32 `[rows, columns]`: read-only where that saves a copy."""

    def finish(self) -> bool:
        """After the last row: whether the file was read; FileChanged if it has other rows than when it was indexed."""


class ParsedRows:
    """The rows of some ranges of a file, one range after another, parsed from its bytes."""

    def __init__(
        self, source: Source, ranges: Iterable[Range], readers: DaemonPool, *, block_bytes: int, num_ahead: int = 1
    ) -> None:
        self._source = source
        self._ranges = (rows for rows in ranges if len(rows))
        self._begun: deque[Range] = deque()  # ranges that are being read, of which none is parsed
        self._rows = Range(0, 0)
        self._left = 0  # rows of this range that are still to come
        self._block: Block | None = None
        self._position = 0
        self._looks_at = source.layout.take  # for numbers that lose digits: the columns of which none was noted
        self._blocks = line_blocks(source.reader, self._spans(), readers, block_bytes=block_bytes, num_ahead=num_ahead)

    def fill(self, out: Floats) -> None:
        """Parse the next `len(out)` rows; raises DataError for a faulty one, which is named."""
        filled = 0
        while filled < len(out):
            if not self._left:
                self._begin_range()
            count = self._parse(out[filled : filled + self._left])
            filled += count
            self._left -= count

    def take(self, num_rows: int) -> Floats:
        """The next rows in an array of their own."""
        return _filled(self, num_rows, self._source.num_columns)

    def finish(self) -> bool:
        """Whether any were parsed; FileChanged unless only blanks follow them."""
        blanks = self._source.header.blanks + b"\n"
        while self._block is not None:
            if self._block.buffer[self._position : self._block.stop].tobytes().strip(blanks):
                raise self._changed("more")
            self._next_block()
        return len(self._rows) > 0

    def _spans(self) -> Iterator[tuple[int, int]]:
        for rows in self._ranges:
            self._begun.append(rows)
            yield self._source.row_offset(rows.start), self._source.row_offset(rows.stop)

    def _begin_range(self) -> None:
        self.finish()
        self._set_block(next(self._blocks, None))
        self._rows = self._begun.popleft()
        self._left = len(self._rows)

    def _parse(self, out: Floats) -> int:
        """Parse rows of this block; returns how many there were, at most `len(out)`."""
        if self._block is None:
            raise self._changed("fewer")
        try:
            begin = self._position
            count, self._position, has_large = parse_rows(
                self._block.buffer, begin, self._block.stop, self._source.layout, out
            )
        except ParseFault as fault:
            raise self._located(fault, self._block.base) from fault
        if has_large:
            self._note_losses(self._block, begin)
        if count < len(out):
            self._next_block()
        return count

    def _next_block(self) -> None:
        """Go on to the next block of this range, or to None after its last."""
        ended = self._block is None or self._block.ends_span
        self._set_block(None if ended else next(self._blocks, None))

    def _set_block(self, block: Block | None) -> None:
        self._block = block
        self._position = block.start if block else 0

    def _located(self, fault: ParseFault, base: int) -> DataError:
        source = self._source
        check_unchanged(source.info)
        line = source.index.line_number(source.reader, base + fault.offset)
        return DataError(f"{source.url}, line {line}: {fault.describe(source.header.names)}")

    def _note_losses(self, block: Block, begin: int) -> None:
        """Notes a number of each column that lost digits in this part of the block; DataError if they may not."""
        source = self._source
        for field, first, stop in find_losses(
            block.buffer, begin, self._position, source.header.delimiter, self._looks_at
        ):
            line = source.index.line_number(source.reader, block.base + first)
            loss = DigitLoss(source.header.names[field], line, block.buffer[first:stop].tobytes().decode())
            if source.digit_losses.is_strict:
                raise DataError(loss.describe(source.url))
            source.digit_losses.note(loss)
            self._looks_at = np.where(np.arange(len(self._looks_at)) == field, np.int32(-1), self._looks_at)

    def _changed(self, how: str) -> FileChanged:
        return FileChanged(
            f"{self._source.url}: the rows {self._rows.start} to {self._rows.stop} are {how} than when it was indexed; "
            "run again when nothing writes to the file"
        )


def check_first_rows(source: Source, rows: Range) -> None:
    """Parses rows that nobody needs yet, so that a file that cannot be used is refused at once; DataError if so."""
    pool = DaemonPool(1, "first-rows")
    try:
        ParsedRows(source, [rows], pool, block_bytes=FIRST_BLOCK_BYTES).take(len(rows))
    finally:
        pool.close()


class CachedRows:
    """The rows of some ranges: from the cache where it has them; `parse` gives the others, which it then keeps."""

    def __init__(
        self, cache: RowCache, ranges: Iterable[Range], parse: Callable[[Iterable[Range]], Rows], *, num_columns: int
    ) -> None:
        self._cache = cache
        self._ranges = iter(ranges)
        self._num_columns = num_columns
        self._parts: deque[tuple[Range, bool]] = deque()  # what follows, each with whether it is kept
        self._missing: deque[Range] = deque()  # of these, what `parse` has not yet asked for
        self._parsed = parse(self._to_parse())

    def fill(self, out: Floats) -> None:
        """Read or parse the next `len(out)` rows."""
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
        """The next rows, as a map of the cache where it has all of them in one place."""
        while not self._parts and self._look_ahead():
            pass
        if num_rows and self._parts:
            rows, is_kept = self._parts[0]
            if is_kept and len(rows) >= num_rows:
                return self._cache.view(self._next_part(num_rows)[0])
        return _filled(self, num_rows, self._num_columns)

    def finish(self) -> bool:
        """Whether any were parsed; FileChanged if the file has other rows than when it was indexed."""
        return self._parsed.finish()

    def _next_part(self, num_rows: int) -> tuple[Range, bool]:
        """Up to so many of the next rows that are all kept, or all not."""
        while not self._parts and self._look_ahead():
            pass
        rows, is_kept = self._parts.popleft()
        stop = min(rows.start + num_rows, rows.stop)
        if stop < rows.stop:
            self._parts.appendleft((Range(stop, rows.stop), is_kept))
        return Range(rows.start, stop), is_kept

    def _look_ahead(self) -> bool:
        """See what the cache has of the next range; False after the last one."""
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
    """The rows of some windows, each permuted; the next window is made in `pool` while one is used up.

    Holds two windows at a time, each of up to `max_rows`. `rows` gives the rows of the windows' ranges in turn. The
    rows before `first_row` of the shard's order are left out.
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
        """Copy the next `len(out)` rows; raises what making their window raised."""
        filled = 0
        while filled < len(out):
            rest = self._window[self._position : self._position + len(out) - filled]
            out[filled : filled + len(rest)] = rest
            filled += len(rest)
            self._position += len(rest)
            if filled < len(out):
                self._next_window()

    def take(self, num_rows: int) -> Floats:
        """The next rows in an array of their own."""
        return _filled(self, num_rows, self._window.shape[1])

    def finish(self) -> bool:
        """Whether the file was read; FileChanged if it has other rows than when it was indexed."""
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
