"""The compiled loop from CSV bytes to typed values: numbers as doubles, times, texts as fingerprints, and gaps.

Where plain columns of ordinary numbers go straight to float32 (field_scanner.py), this reads everything else: what the
statistics look at, and what is encoded. Values are stored column by column. Positions are addresses.
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
from disttrain.data.csv import decimals, doubles, field_scanner, fingerprint64, iso_times
from disttrain.data.csv.decimals import (
    BAD,
    CR,
    DOT,
    LETTER_I,
    LETTER_N,
    LF,
    LOWER,
    MINUS,
    PLUS,
    QUOTE,
    REACH,
    SETTLED,
    SPACE,
    TAB,
    byte_or_lf,
    is_digit,
    skip_pads,
)
from disttrain.data.csv.doubles import any_double, quick_double
from disttrain.data.csv.field_scanner import skip_blanks, skip_field
from disttrain.data.csv.fingerprint64 import fingerprint
from disttrain.data.csv.iso_times import iso_time
from disttrain.data.table.values import GAP, NUMBER, TEXT, TIME, UNREAD
from disttrain.native import (
    address,
    byte_at,
    called,
    compiled,
    double_of_bits,
    inlined,
    prefetch,
    trailing_zeros,
    word_at,
)

DONE, FAULT = 0, 1  # how a scan ended
SCRATCH_BYTES = 1 << 12  # longer texts that hold doubled quotes are cut
_AHEAD = 4096
_ONES, _FEEDS, _HIGH_BITS = np.uint64(0x0101010101010101), np.uint64(0x0A0A0A0A0A0A0A0A), np.uint64(0x8080808080808080)
_U1, _U3, _LOW_6 = np.uint64(1), np.uint64(3), np.uint64(63)


@inlined
def _text_bounds(position: Any, end: Any) -> Any:
    """Returns (first byte, byte after the last) of a field's text, without pads and quotes, in `[position, end)`."""
    while end > position and byte_at(end - 1) in (SPACE, TAB, CR):
        end -= 1
    if end - position >= 2 and byte_at(position) == QUOTE and byte_at(end - 1) == QUOTE:
        return position + 1, end - 1
    return position, end


@called
def _text_key(first: Any, end: Any, quoted: Any, scratch: Any) -> Any:
    """Returns the fingerprint of a text; a doubled quote inside a quoted one counts once."""
    if quoted:
        length, is_shorter, position = 0, False, first
        while position < end and length < len(scratch):
            byte = byte_at(position)
            scratch[length] = byte
            length += 1
            position += 1
            if byte == QUOTE and position < end and byte_at(position) == QUOTE:
                position += 1
                is_shorter = True
        if is_shorter:
            return fingerprint(address(scratch), length)
    return fingerprint(first, end - first)


@inlined
def _plain_end(position: Any, stop: Any, delimiter: Any) -> Any:
    """Returns the position of the first delimiter or line feed, eight bytes at a time; the stop if there is none."""
    delimiters = np.uint64(delimiter) * _ONES
    while position + 8 <= stop:
        word = word_at(position)
        one, other = word ^ delimiters, word ^ _FEEDS
        found = (((one - _ONES) & ~one) | ((other - _ONES) & ~other)) & _HIGH_BITS
        if found:
            return position + np.int64(trailing_zeros(found) >> _U3)
        position += 8
    while position < stop and byte_at(position) not in (delimiter, LF):
        position += 1
    return position


@inlined
def _is_gap_number(value: Any, gap_numbers: Any) -> Any:
    for number in gap_numbers:  # noqa: SIM110 - numba compiles no generator
        if value == number:
            return True
    return False


@inlined
def _is_gap(key: Any, gaps: Any) -> Any:
    """Returns whether a fingerprint is one of `gaps`, whose first number has a bit for the last six of each other."""
    if not gaps[0] >> (key & _LOW_6) & _U1:
        return False
    for gap in gaps[1:]:  # noqa: SIM110 - numba compiles no generator
        if key == gap:
            return True
    return False


@called
def _slow_value(first: Any, end: Any, is_text: Any, quoted: Any, gaps: Any, gap_numbers: Any, scratch: Any) -> Any:
    """Reads the text `[first, end)` of any field: returns (tag, value); a text's value is its fingerprint's bits."""
    if first == end:
        return GAP, 0.0
    start = skip_pads(first, end, -1)  # quotes may enclose blanks
    byte = byte_or_lf(start, end)
    if not is_text and (is_digit(byte) or byte in (PLUS, MINUS, DOT) or (byte | LOWER) in (LETTER_N, LETTER_I)):
        status, value, after = any_double(start, end)
        if status != BAD and skip_pads(after, end, -1) == end:
            is_named_gap = status == SETTLED and value != value and _is_gap(fingerprint(first, end - first), gaps)
            if is_named_gap or (status == SETTLED and _is_gap_number(value, gap_numbers)):
                return GAP, 0.0
            return NUMBER if status == SETTLED else UNREAD, value
        value, after = iso_time(start, end)
        if after == end:
            return TIME, value
    key = _text_key(first, end, quoted, scratch)
    return GAP if _is_gap(key, gaps) else TEXT, double_of_bits(key)


@inlined
def _scan_values(
    buffer: Any, start: Any, stop: Any, delimiter: Any, take: Any, as_text: Any, gaps: Any, gap_numbers: Any,
    values: Any, tags: Any, bounds: Any, row_starts: Any, scratch: Any, most: Any, keeps_bounds: Any,
) -> Any:  # fmt: skip
    """Reads up to `most` of the lines in `buffer[start:stop]` as rows: returns (how it ended, rows, position).

    Of what was read, `bounds` [columns, rows, 2] has first byte and end of numbers that are UNREAD, which Python has to
    settle, and of texts if it `keeps_bounds`; `row_starts` [rows] where each row starts. After a
    fault, the position is the faulty row's.
    """
    num_fields = len(take)
    base = address(buffer)
    position, stop = base + start, base + stop
    for row in range(most):
        position = skip_blanks(position, stop, delimiter)
        if position >= stop:
            return DONE, row, position - base
        row_start = position
        row_starts[row] = row_start - base
        prefetch(position + _AHEAD)
        for field in range(num_fields):
            last = field == num_fields - 1
            column = take[np.uint64(field)]
            if column >= 0 and position + REACH <= stop and not as_text[column]:
                value, end = quick_double(position)
                if end >= 0:
                    byte = byte_at(end)
                    if byte == (LF if last else delimiter):
                        values[column, row] = value
                        tags[column, row] = GAP if _is_gap_number(value, gap_numbers) else NUMBER
                        position = end + 1
                        continue
            begin = skip_pads(position, stop, delimiter)
            is_quoted = byte_or_lf(begin, stop) == QUOTE
            end = skip_field(begin, stop, delimiter) if is_quoted else _plain_end(begin, stop, delimiter)
            if end < 0 or (end == stop or byte_at(end) == LF) != last:
                return FAULT, row, row_start - base
            if column >= 0:
                first, after = _text_bounds(begin, end)
                if as_text[column] and first < after and not is_quoted:
                    key = fingerprint(first, after - first)
                    tag, value = GAP if _is_gap(key, gaps) else TEXT, double_of_bits(key)
                else:
                    tag, value = _slow_value(first, after, as_text[column], first != begin, gaps, gap_numbers, scratch)
                values[column, row] = value
                tags[column, row] = tag
                if tag == UNREAD or (tag == TEXT and keeps_bounds):
                    bounds[column, row, 0] = first - base
                    bounds[column, row, 1] = after - base
            position = min(end + 1, stop)
    return DONE, most, position - base


def _scan_of(stamp: str) -> Callable[..., Any]:
    """Returns a function to compile, with the stamp of what it inlines in its closure (see field_scanner.py)."""

    def scan(
        buffer: Any, start: Any, stop: Any, delimiter: Any, take: Any, as_text: Any, gaps: Any, gap_numbers: Any,
        values: Any, tags: Any, bounds: Any, row_starts: Any, scratch: Any, most: Any, keeps_bounds: Any,
    ) -> Any:  # fmt: skip
        assert stamp
        return _scan_values(
            buffer, start, stop, delimiter, take, as_text, gaps, gap_numbers, values, tags, bounds, row_starts, scratch,
            most, keeps_bounds,
        )  # fmt: skip

    return scan


@functools.cache
def scan_values() -> Callable[..., tuple[int, int, int]]:
    """Returns `_scan_values` compiled without the GIL, or loaded from the cache on disk."""
    used = (decimals, doubles, field_scanner, fingerprint64, iso_times, native)
    stamp = hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in used)).hexdigest()

    def array(dtype: Any, ndim: int, *, readonly: bool = False) -> Any:
        return types.Array(dtype, ndim, "C", readonly=readonly)

    word, byte = types.int64, types.uint8
    arguments = (
        array(byte, 1, readonly=True), word, word, word, array(types.int32, 1, readonly=True),
        array(types.boolean, 1, readonly=True), array(types.uint64, 1, readonly=True), array(types.float64, 1),
        array(types.float64, 2),
        array(byte, 2), array(word, 3), array(word, 1), array(byte, 1), word, types.boolean,
    )  # fmt: skip
    results = types.Tuple((word, word, word))  # type: ignore[no-untyped-call]
    return compiled(_scan_of(stamp), results(*arguments), error_model="numpy")
