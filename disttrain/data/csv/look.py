"""A look at some of a file's rows: whether all its columns seem to be plain numbers of ordinary size.

Then nothing needs to be known of them, and the file is not read for statistics.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from disttrain.data.csv.parser import Layout, ParseFault, parse_rows
from disttrain.data.csv.text import CsvText
from disttrain.data.row_source import Floats
from disttrain.data.table.scaling import is_ordinary

WHOLE_BYTES = 16 << 20  # a file up to this size is looked at as a whole, in 40 ms
NUM_PLACES = 64  # of a larger file, evenly spaced
PLACE_BYTES = 64 << 10


def looks_plain(text: CsvText, layout: Layout, *, any_size: bool) -> bool:
    """Returns whether the chosen columns hold only numbers, of ordinary size unless `any_size`, where it is looked."""
    if text.has_orders or not text.header.dialect.is_plain:
        return False
    parts = []
    try:
        for start, stop in _places(text.info.size_bytes, text.first_row):
            buffer = np.empty(stop - start, np.uint8)
            text.reader.read_into(start, buffer.data)
            is_first, is_last = start == text.first_row, stop == text.info.size_bytes
            parts.append(_rows(buffer, layout, is_first=is_first, is_last=is_last))
    except ParseFault:
        return False
    rows = np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, layout.num_columns))
    if np.isnan(rows).any():
        return False
    return any_size or all(
        _is_ordinary(rows[np.isfinite(rows[:, column]), column]) for column in range(layout.num_columns)
    )


def _is_ordinary(numbers: npt.NDArray[np.float64]) -> bool:
    if not len(numbers):
        return True
    return is_ordinary(float(numbers.min()), float(numbers.max()), float(numbers.mean()), float(numbers.std()))


def _places(size_bytes: int, rows_start: int) -> list[tuple[int, int]]:
    if size_bytes - rows_start <= WHOLE_BYTES:
        return [(rows_start, size_bytes)]
    starts = np.linspace(rows_start, size_bytes - PLACE_BYTES, NUM_PLACES).astype(np.int64).tolist()
    return [(start, start + PLACE_BYTES) for start in starts]


def _rows(buffer: npt.NDArray[np.uint8], layout: Layout, *, is_first: bool, is_last: bool) -> Floats:
    """Parses the whole lines of a buffer, float32 [rows, columns]."""
    text = buffer.tobytes()
    start = 0 if is_first else text.find(b"\n") + 1
    stop = len(text) if is_last else text.rfind(b"\n") + 1
    if start >= stop:
        return np.zeros((0, layout.num_columns), np.float32)
    out = np.empty((text.count(b"\n", start, stop) + 1, layout.num_columns), np.float32)
    num_rows, _, _ = parse_rows(buffer, start, stop, layout, out)
    return out[:num_rows]
