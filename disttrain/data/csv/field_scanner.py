"""The compiled loop from CSV bytes to rows of float32: one pass over the bytes, without the GIL.

A field is read as a number of the same width as in the row above. If it is not one, it is read as a number of usual
form, and if it is not that either, byte by byte as any allowed form. Positions are addresses.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba.core import types

from disttrain import native
from disttrain.data.csv import decimals
from disttrain.data.csv.decimals import (
    BAD,
    CR,
    LETTER_I,
    LETTER_N,
    LF,
    LOWER,
    MINUS,
    PLUS,
    QUOTE,
    REACH,
    SPACE,
    TAB,
    UNSETTLED,
    byte_or_lf,
    named_number,
    plain_number,
    quick_number,
    skip_pads,
    usual_number,
    usual_width,
)
from disttrain.native import address, byte_at, called, compiled, inlined, prefetch

DONE, PENDING_FULL, FAULT = 0, 1, 2  # how a scan ended

_LEARN_MASK = 15  # after a wrong guess, the width of a column's numbers is measured again at every 16th row
_SIGNLESS = np.uint32(0x7FFFFFFF)
_LARGE, _INFINITE = np.uint32(0x4B800000), np.uint32(0x7F800000)  # the bits of 2**24 and of infinity as float32s
# Bytes. The processor's own prefetching ends at a page: this gives 105 instead of 68 million two-column rows/s from
# memory.
_AHEAD = 4096


@called
def _field_end(position: Any, stop: Any, delimiter: Any) -> Any:
    """Returns the position of the delimiter, line feed or stop after a field, its pads and carriage return; else -1."""
    position = skip_pads(position, stop, delimiter)
    if byte_or_lf(position, stop) == CR:
        while position < stop and (byte_at(position) in (CR, SPACE, TAB)):
            position += 1
        return position if byte_or_lf(position, stop) == LF else np.int64(-1)
    byte = byte_or_lf(position, stop)
    return position if byte in (delimiter, LF) else np.int64(-1)


@called
def _any_number(position: Any, stop: Any, delimiter: Any) -> Any:
    """Reads a wanted field of any allowed form: (status, value, first byte, byte after the number, the field's end)."""
    position = skip_pads(position, stop, delimiter)
    quoted = byte_or_lf(position, stop) == QUOTE
    if quoted:
        position = skip_pads(position + 1, stop, -1)
    first = position
    sign = byte_or_lf(position, stop)
    if sign in (MINUS, PLUS):
        position += 1
    letter = byte_or_lf(position, stop) | LOWER
    if letter in (LETTER_N, LETTER_I):
        status, value, position = named_number(position, stop)
    else:
        status, value, position = plain_number(position, stop)
    end = position
    if quoted:
        position = skip_pads(position, stop, -1)
        if byte_or_lf(position, stop) != QUOTE:
            status = BAD
        position += 1
    position = _field_end(position, stop, delimiter)
    if position < 0:
        status = BAD
    return status, -value if sign == MINUS else value, first, end, position


@called
def skip_field(position: Any, stop: Any, delimiter: Any) -> Any:
    """Returns the end of an unwanted field, plain or quoted; -1 if a quote that begins it does not end on its line.

    Any other quote is text, as in Python's csv module.
    """
    position = skip_pads(position, stop, delimiter)
    if byte_or_lf(position, stop) == QUOTE:
        position += 1
        while True:
            byte = byte_or_lf(position, stop)
            if byte == LF:
                return np.int64(-1)
            position += 1
            if byte == QUOTE:
                if byte_or_lf(position, stop) != QUOTE:
                    break
                position += 1
    while position < stop and byte_at(position) not in (delimiter, LF):
        position += 1
    return position


@inlined
def skip_blanks(position: Any, stop: Any, delimiter: Any) -> Any:
    """Returns where the next row starts, past blank lines and past blanks before the first field."""
    while position < stop:
        byte = byte_at(position)
        if byte not in (SPACE, TAB, CR, LF) or byte == delimiter:
            break
        position += 1
    return position


@inlined
def _line_break(position: Any) -> Any:
    """Returns the length of the line break at a position: 1, 2 with a carriage return, 0 if there is none."""
    byte = byte_at(position)
    if byte == LF:
        return 1
    return 2 if byte == CR and byte_at(position + 1) == LF else 0


@inlined
def _quick_field(position: Any, width: Any, delimiter: Any, last: Any) -> Any:
    """Reads a number of usual form: (value, where the next field starts or -1, `width` if that was right, else 0)."""
    if width > 0:
        if width == 8:  # the same call, with constants folded: a fifth faster
            value, end, fits = usual_number(position, np.int64(8))
        else:
            value, end, fits = usual_number(position, width)
        if fits:
            if byte_at(end) == (LF if last else delimiter):
                return value, end + 1, width
            if last and _line_break(end):
                return value, end + 2, width
    value, end = quick_number(position)
    if end < 0:
        return value, end, np.int64(0)
    skipped = _line_break(end) if last else np.int64(byte_at(end) == delimiter)
    return value, end + skipped if skipped else np.int64(-1), np.int64(0)


@inlined
def _scan_rows(
    buffer: Any, start: Any, stop: Any, delimiter: Any, take: Any, num_columns: Any, out: Any, pending: Any
) -> Any:
    """Fills `out` (flat, `num_columns` values a row) from the lines in `buffer[start:stop]`.

    Returns (how it ended, rows written, position, pending fields). The position is where the next row may start; after
    a fault, where the faulty row starts. Each line of `pending` is (index in `out`, first byte, byte after the number)
    of a number that is still to be settled.
    """
    num_fields = len(take)
    num_rows = len(out) // num_columns
    num_pending = 0
    widths = np.zeros(num_fields, np.int64)
    base = address(buffer)
    position, stop = base + start, base + stop
    for row in range(num_rows):
        position = skip_blanks(position, stop, delimiter)
        if position >= stop:
            return DONE, row, position - base, num_pending
        row_start, row_pending = position, num_pending
        prefetch(position + _AHEAD)
        for field in range(num_fields):
            last = field == num_fields - 1
            slot = row * num_columns + take[np.uint64(field)]
            if take[np.uint64(field)] < 0:
                end = skip_field(position, stop, delimiter)
                if end < 0:
                    return FAULT, row, row_start - base, row_pending
            else:
                if position + REACH <= stop:
                    width = widths[np.uint64(field)]
                    if width == 0 and row & _LEARN_MASK == 0:
                        width = usual_width(position)
                    value, end, widths[np.uint64(field)] = _quick_field(position, width, delimiter, last)
                    if end >= 0:
                        out[np.uint64(slot)] = value
                        position = end
                        continue
                status, value, first, after, end = _any_number(position, stop, delimiter)
                if status == BAD:
                    return FAULT, row, row_start - base, row_pending
                if status == UNSETTLED:
                    if num_pending == len(pending):
                        return PENDING_FULL, row, row_start - base, row_pending
                    pending[num_pending, 0] = slot
                    pending[num_pending, 1] = first - base
                    pending[num_pending, 2] = after - base
                    num_pending += 1
                out[np.uint64(slot)] = value
            # A line feed, or the stop, must end the last field and no other.
            if (end == stop or byte_at(end) == LF) != last:
                return FAULT, row, row_start - base, row_pending
            position = min(end + 1, stop)
    return DONE, num_rows, position - base, num_pending


@called
def _has_large(values: Any) -> Any:
    """Returns whether any of these values is finite and so large that not all whole numbers around it are float32s."""
    found = np.uint32(0)
    for bits in values.view(np.uint32):  # without a branch, so that it becomes SIMD instructions
        found |= np.uint32((bits & _SIGNLESS) - _LARGE < _INFINITE - _LARGE)
    return found != 0


def _signature() -> Any:
    def array(dtype: Any, ndim: int, *, readonly: bool = False) -> Any:
        return types.Array(dtype, ndim, "C", readonly=readonly)

    word = types.int64
    buffer, take = array(types.uint8, 1, readonly=True), array(types.int32, 1, readonly=True)
    results = types.Tuple((word, word, word, word, types.boolean))  # type: ignore[no-untyped-call]
    return results(buffer, word, word, word, take, word, array(types.float32, 1), array(word, 2))


def _scan_of(stamp: str) -> Callable[..., Any]:
    """Returns a function to compile, with the stamp in its closure.

    Numba caches compiled code on disk under only this file's time stamp and a hash of the function's closure. With the
    `stamp` of `decimals.py` and `native.py` in the closure, a change to those files is noticed too.
    """

    def scan(
        buffer: Any, start: Any, stop: Any, delimiter: Any, take: Any, num_columns: Any, out: Any, pending: Any
    ) -> Any:
        assert stamp
        status, num_rows, position, num_pending = _scan_rows(
            buffer, start, stop, delimiter, take, num_columns, out, pending
        )
        return status, num_rows, position, num_pending, _has_large(out[: num_rows * num_columns])

    return scan


@functools.cache
def scan_rows() -> Callable[..., tuple[int, int, int, int, bool]]:
    """Returns `_scan_rows` compiled or loaded from the cache on disk; it also tells whether it wrote large numbers."""
    used = b"".join(Path(str(module.__file__)).read_bytes() for module in (decimals, native))
    scan = _scan_of(hashlib.sha256(used).hexdigest())
    return compiled(scan, _signature(), error_model="numpy")
