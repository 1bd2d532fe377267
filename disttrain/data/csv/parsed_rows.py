"""The rows of some ranges of a CSV, parsed from its bytes as they arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from disttrain.data.bad_rows import BadRow, BadRows
from disttrain.data.csv.digit_scanner import find_losses
from disttrain.data.csv.header import Header
from disttrain.data.csv.normalizer import normalizer_of
from disttrain.data.csv.parser import ParseFault, RowParser
from disttrain.data.csv.readahead import Block, line_blocks
from disttrain.data.csv.text import CsvText
from disttrain.data.csv.value_reader import field_as_written
from disttrain.data.digit_losses import DigitLoss, DigitLosses
from disttrain.data.place import Place
from disttrain.data.ranges import Range
from disttrain.data.row_source import Floats
from disttrain.errors import DataError, FileChanged
from disttrain.threads import DaemonPool

MAX_SHOWN = 1000  # characters of a bad row that are kept


class OpenRows(Protocol):
    """What parsing rows needs of an open dataset."""

    @property
    def text(self) -> CsvText:
        """Its bytes, of all files."""

    @property
    def num_columns(self) -> int:
        """Columns of a parsed row."""

    def row_parser(self, file: int) -> RowParser:
        """Returns what parses a file's rows, for one thread."""

    @property
    def bad_rows(self) -> BadRows | None:
        """Takes up rows that cannot be read; None where these are errors."""

    @property
    def digit_losses(self) -> DigitLosses:
        """Takes up the numbers that lose digits."""

    def row_offset(self, row: int) -> int:
        """Returns the byte from which a row is parsed."""

    def place_at(self, offset: int) -> Place:
        """Returns the file and the line of a byte of a row."""

    def split_by_order(self, rows: Range) -> Iterator[Range]:
        """Yields the parts of a range whose files have their columns in the same order."""


class ParsedRows:
    """The rows of some ranges of a file, one range after another, parsed from its bytes."""

    def __init__(
        self, source: OpenRows, ranges: Iterable[Range], readers: DaemonPool, *, block_bytes: int, num_ahead: int = 1
    ) -> None:
        self._source = source
        self._ranges = (part for rows in ranges for part in source.split_by_order(rows))
        self._begun: deque[Range] = deque()  # ranges that are being read and not parsed yet
        self._rows = Range(0, 0)
        self._left = 0  # rows of this range that are still to come
        self._block: Block | None = None
        self._position = 0
        self._known: tuple[Block | None, int, Place] = (None, 0, Place("", 0))  # the last position that was asked for
        self._set_parser(0)
        self._blocks = line_blocks(
            source.text.reader, self._spans(), readers, block_bytes=block_bytes, num_ahead=num_ahead,
            normalizer=normalizer_of(self._header.dialect),
        )  # fmt: skip

    def fill(self, out: Floats) -> None:
        """Parses the next `len(out)` rows into `out`; raises a DataError that says where a faulty one is."""
        filled = 0
        while filled < len(out):
            if not self._left:
                self._begin_range()
            count = self._parse(out[filled : filled + self._left])
            filled += count
            self._left -= count

    def take(self, num_rows: int) -> Floats:
        """Returns the next rows in a new array."""
        out = np.empty((num_rows, self._source.num_columns), np.float32)
        self.fill(out)
        return out

    def finish(self) -> bool:
        """Returns whether any rows were parsed; FileChanged unless only blanks follow them."""
        blanks = self._header.blanks + b"\n"
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
        if self._source.text.has_orders and self._block is not None:
            self._set_parser(self._source.text.file_at(self._block.base + self._block.start))

    def _set_parser(self, file: int) -> None:
        """Parses as the fields of a file stand; `_looks_at`: for `find_losses`, without columns with a noted loss."""
        self._header: Header = self._source.text.files[file].header
        self._parser = self._source.row_parser(file)
        self._looks_at = self._parser.raw_take

    def _parse(self, out: Floats) -> int:
        """Parses rows of this block; returns how many there were, at most `len(out)`."""
        if self._block is None:
            raise self._changed("fewer")
        block, begin = self._block, self._position
        try:
            count, self._position, has_large = self._parser.parse(block.buffer, begin, block.stop, out)
        except ParseFault as found:
            fault, count, has_large = self._first_fault(found, block, out)
            bad_rows = self._source.bad_rows
            if bad_rows is None:
                raise self._located(fault, block.base) from fault
            count += self._skip(fault, block, out[count], bad_rows)
        if has_large:
            self._note_losses(self._block, begin)
        if count < len(out) and self._position >= block.stop:
            self._next_block()
        return count

    def _first_fault(self, fault: ParseFault, block: Block, out: Floats) -> tuple[ParseFault, int, bool]:
        """Parses the rows before a faulty one; returns the first faulty one, and what `parse` tells of those before it.

        A line that is no row is found before the values of earlier rows are looked at.
        """
        while True:
            try:
                count, _, has_large = self._parser.parse(block.buffer, self._position, fault.offset, out)
                return fault, count, has_large
            except ParseFault as earlier:
                fault = earlier

    def _skip(self, fault: ParseFault, block: Block, row: Floats, bad_rows: BadRows) -> int:
        """Makes a faulty row zeros without weight, and goes on behind it; returns how many rows that makes."""
        row[:] = 0
        line = block.buffer[fault.offset : block.stop].tobytes().partition(b"\n")[0]
        self._position = min(fault.offset + len(line) + 1, block.stop)
        place = self._place_in(block, fault.offset)
        cause = fault.describe(self._header.names).partition("; ")[0]
        bad_rows.note(BadRow(place, fault.kind, cause, line.strip().decode("utf-8", "replace")[:MAX_SHOWN]))
        return 1

    def _place_in(self, block: Block, position: int) -> Place:
        """Returns the place of a position in a block; those of one file are counted from one to the next."""
        url = self._source.text.url_at(block.base + position)
        before, known, place = self._known
        if before is not block or place.url != url:
            place = self._source.place_at(block.base + position)
        else:
            feeds = int(np.count_nonzero(block.buffer[known:position] == ord("\n")))
            place = Place(url, place.line + feeds)
        self._known = (block, position, place)
        return place

    def _next_block(self) -> None:
        """Goes on to the next block of this range, or to None after its last."""
        ended = self._block is None or self._block.ends_span
        self._set_block(None if ended else next(self._blocks, None))

    def _set_block(self, block: Block | None) -> None:
        self._block = block
        self._position = block.start if block else 0

    def _located(self, fault: ParseFault, base: int) -> DataError:
        text = self._source.text
        text.check_unchanged()
        if fault.field is not None and not self._header.dialect.is_plain:
            fault.text = field_as_written(text, base + fault.offset, fault.field)
        return DataError(f"{self._source.place_at(base + fault.offset)}: {fault.describe(self._header.names)}")

    def _note_losses(self, block: Block, begin: int) -> None:
        """Notes, for each column, a number that lost digits in this part of the block; DataError if `is_strict`."""
        source = self._source
        for field, first, stop in find_losses(
            block.buffer, begin, self._position, self._header.delimiter, self._looks_at
        ):
            offset = block.base + first
            loss = DigitLoss(
                self._header.names[field], offset, source.place_at(offset), block.buffer[first:stop].tobytes().decode()
            )
            if source.digit_losses.is_strict:
                raise DataError(loss.describe())
            source.digit_losses.note(loss)
            self._looks_at = np.where(np.arange(len(self._looks_at)) == field, np.int32(-1), self._looks_at)

    def _changed(self, how: str) -> FileChanged:
        rows, url = self._rows, self._source.text.info.url
        return FileChanged(
            f"{url}: there are {how} rows from {rows.start} to {rows.stop} than when the file was indexed; "
            "run again when nothing writes to the file"
        )
