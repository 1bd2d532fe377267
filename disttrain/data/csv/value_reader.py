"""Reads rows of a CSV as typed values, and says what is wrong with lines that are no rows."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from disttrain.data.csv import value_scanner
from disttrain.data.csv.fingerprint64 import fingerprint_of
from disttrain.data.csv.normalizer import normalizer_of
from disttrain.data.csv.parser import field_spans, find_fault, shorten
from disttrain.data.csv.text import CsvText
from disttrain.data.table.values import NUMBER, UNREAD, Values, numbers_of

LINE_BYTES = 1 << 20  # of a row that a message quotes
VALUES_AT_ONCE = 1 << 13  # these fit into a core's cache, with what is made of them


class ValueReader:
    """Reads the chosen fields of rows into `values`; one thread uses it at a time."""

    def __init__(
        self,
        take: npt.NDArray[np.int32],
        delimiter: int,
        as_text: Sequence[bool],
        gaps: Sequence[str],
        *,
        keeps_bounds: bool = True,
        skips: bool = False,
    ) -> None:
        """
        Args:
            take: int32 [fields], the column of each field, or -1.
            delimiter: the byte between two fields.
            as_text: for each column, whether its numbers are texts too.
            gaps: words that stand for nothing.
            keeps_bounds: whether `values` says where texts stand.
            skips: whether lines that are no rows are left out.
        """
        self._take = take
        self._delimiter = delimiter
        self._as_text = np.asarray(as_text, np.bool_)
        keys = [fingerprint_of(word) for word in gaps]
        self._gaps = np.array([functools.reduce(operator.or_, (1 << (key & 63) for key in keys), 0), *keys], np.uint64)
        self._gap_numbers = np.array(numbers_of(gaps), np.float64)
        self._keeps_bounds = keeps_bounds
        self._skips = skips
        num_columns = len(self._as_text)
        self.values = Values.empty(num_columns, max(VALUES_AT_ONCE // num_columns, 16))
        self._scratch = np.zeros(value_scanner.SCRATCH_BYTES, np.uint8)

    def read(self, buffer: npt.NDArray[np.uint8], start: int, stop: int, most: int | None = None) -> tuple[int, int]:
        """Reads the lines in `buffer[start:stop]` into `values` until that is full, or has `most` rows.

        Returns:
            How many rows there were, and the position after the last one.

        Raises:
            ParseFault: for a line that is no row.
        """
        values, capacity = self.values, len(self.values.row_starts)
        status, num_rows, position = value_scanner.scan_values()(
            buffer, start, stop, self._delimiter, self._take, self._as_text, self._gaps, self._gap_numbers,
            values.values, values.tags, values.bounds, values.row_starts, self._scratch,
            capacity if most is None else min(most, capacity), self._keeps_bounds,
        )  # fmt: skip
        if status == value_scanner.FAULT and self._skips:
            line = buffer[position:stop].tobytes().partition(b"\n")[0]
            position = min(position + len(line) + 1, stop)
        elif status == value_scanner.FAULT:
            raise find_fault(buffer[position:stop].tobytes(), position, len(self._take), self._delimiter, ())
        tags = values.tags[:, :num_rows]
        if (unread := tags == UNREAD).any():
            for column, row in np.argwhere(unread).tolist():
                first, end = values.bounds[column, row].tolist()
                values.values[column, row] = float(buffer[first:end].tobytes())
                tags[column, row] = NUMBER
        return num_rows, position


def text_at(text: CsvText, offset: int, name: str) -> str:
    """Returns what a column holds in the row that starts at an offset, as a message shows it."""
    header = text.files[text.file_at(offset)].header
    return field_as_written(text, offset, header.names.index(name))


def field_as_written(text: CsvText, offset: int, field: int) -> str:
    """Returns what a field of the row at an offset holds, as a message shows it; empty if the row has fewer."""
    header = text.files[text.file_at(offset)].header
    buffer = bytearray(min(LINE_BYTES, text.info.size_bytes - offset))
    text.reader.read_into(offset, memoryview(buffer))
    plain = np.frombuffer(bytearray(buffer), np.uint8)
    if (normalizer := normalizer_of(header.dialect)) is not None:
        normalizer(plain, 0, len(plain), is_last=True)
    spans, _ = field_spans(plain.tobytes().partition(b"\n")[0], ord(header.delimiter))
    return shorten(bytes(buffer[slice(*spans[field])])) if field < len(spans) else ""
