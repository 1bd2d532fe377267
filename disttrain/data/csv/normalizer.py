"""The compiled loop that rewrites lines of any dialect, in place, as plain lines of the same length.

So one parser reads all dialects, and every byte keeps its offset. What is rewritten: comments become blanks; of a run
of blanks that delimits, the first becomes a space and the others tabs; a line feed within quotes becomes the byte 0x81,
which alone is no UTF-8; a decimal comma becomes a point; thousands separators are closed up, with blanks in front. A
number with a point where commas are wanted gets a comma (an apostrophe, where commas delimit), so that it is refused
instead of misread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from disttrain.data.csv.decimals import CR, LF, LOWER, MINUS, PLUS, QUOTE, SPACE, TAB
from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.dialect_scanner import count, find
from disttrain.native import address, byte_at, called, compiled, inlined, trailing_zeros, word_at

QUOTED_FEED = 0x81
POINT, COMMA, APOSTROPHE, ZERO, NINE, LETTER_E = 46, 44, 39, 48, 57, 101
_ONES, _HIGH_BITS, _U3 = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080), np.uint64(3)

Bytes = npt.NDArray[np.uint8]


@inlined
def _put(buffer: Any, base: Any, position: Any, byte: Any) -> Any:
    """Writes a byte at an address within the buffer, which begins at `base`."""
    buffer[np.uint64(position - base)] = byte


@inlined
def _is_blank(byte: Any, delimiter: Any, runs: Any) -> Any:
    return byte in (SPACE, TAB, CR) and (runs or byte != delimiter)


@inlined
def _is_digit(byte: Any) -> Any:
    return ZERO <= byte <= NINE


@inlined
def _find(position: Any, stop: Any, wanted: Any) -> Any:
    """Returns the position of the first byte `wanted`, eight bytes at a time; the stop if there is none."""
    wanted_bytes = np.uint64(wanted) * _ONES
    while position + 8 <= stop:
        word = word_at(position) ^ wanted_bytes
        found = (word - _ONES) & ~word & _HIGH_BITS
        if found:
            return position + np.int64(trailing_zeros(found) >> _U3)
        position += 8
    while position < stop and byte_at(position) != wanted:
        position += 1
    return position


@called
def _after_quote(position: Any, stop: Any) -> Any:
    """Returns the position after the quote that ends what begins before `position`; -1 if none does."""
    while True:
        position = _find(position, stop, QUOTE)
        if position >= stop:
            return np.int64(-1)
        if position + 1 >= stop or byte_at(position + 1) != QUOTE:
            return position + 1
        position += 2


@called
def _record_end(position: Any, stop: Any, delimiter: Any, comment: Any, runs: Any, quotes: Any) -> Any:
    """Returns where the line feed stands that ends the record at a position, or -1."""
    while position < stop and _is_blank(byte_at(position), delimiter, runs):
        position += 1
    if position < stop and (not quotes or byte_at(position) == comment):
        position = _find(position, stop, LF)
        return position if position < stop else np.int64(-1)
    feed = _find(position, stop, LF)
    if _find(position, feed, QUOTE) == feed:
        return feed if feed < stop else np.int64(-1)
    begins = True  # a field
    while position < stop:
        byte = byte_at(position)
        if byte == LF:
            return position
        if begins and byte == QUOTE:
            after = _after_quote(position + 1, stop)
            if after < 0 or after >= stop:
                return np.int64(-1)
            position = after
            begins = False
            continue
        is_delimiter = byte in (SPACE, TAB) if runs else byte == delimiter
        begins = is_delimiter or (begins and byte in (SPACE, TAB))
        position += 1
    return np.int64(-1)


@called
def _close_up(buffer: Any, base: Any, start: Any, digits: Any, stop: Any, thousands: Any, pad: Any) -> Any:
    """Closes up a whole number `[start, stop)`, whose digits begin at `digits`, towards its end."""
    target = stop - 1
    for source in range(stop - 1, digits - 1, -1):
        byte = byte_at(source)
        if byte != thousands:
            _put(buffer, base, target, byte)
            target -= 1
    if digits > start:
        _put(buffer, base, target, byte_at(start))
        target -= 1
    while target >= start:
        _put(buffer, base, target, pad)
        target -= 1


@inlined
def _digits_end(position: Any, stop: Any) -> Any:
    while position < stop and _is_digit(byte_at(position)):
        position += 1
    return position


@called
def _fraction_end(position: Any, stop: Any, point: Any) -> Any:
    """Returns where a number ends after its whole part: after a point with digits, and an exponent."""
    if position < stop and byte_at(position) == point:
        position = _digits_end(position + 1, stop)
    if position + 1 < stop and byte_at(position) | LOWER == LETTER_E:
        after = position + 1
        if after + 1 < stop and byte_at(after) in (PLUS, MINUS):
            after += 1
        if _is_digit(byte_at(after)):
            position = _digits_end(after, stop)
    return position


@called
def _rewrite_number(
    buffer: Any, base: Any, start: Any, stop: Any, decimal: Any, thousands: Any, pad: Any, foreign: Any
) -> Any:
    """Rewrites a field `[start, stop)` without blanks around it, if it is a number; `foreign` replaces a point."""
    digits = start
    if digits < stop and byte_at(digits) in (PLUS, MINUS):
        digits += 1
    position, in_group, groups, is_grouped = digits, 0, 0, True
    while position < stop:
        byte = byte_at(position)
        if _is_digit(byte):
            in_group += 1
        elif byte == thousands and in_group > 0:
            is_grouped = is_grouped and (in_group <= 3 if groups == 0 else in_group == 3)
            groups += 1
            in_group = 0
        else:
            break
        position += 1
    is_grouped = is_grouped and (groups == 0 or in_group == 3)
    if is_grouped and _fraction_end(position, stop, decimal) == stop:
        if position < stop and byte_at(position) == decimal:
            _put(buffer, base, position, POINT)
        if groups:
            _close_up(buffer, base, start, digits, position, thousands, pad)
        return
    if decimal == POINT:
        return
    position = _digits_end(digits, stop)
    if position < stop and byte_at(position) == POINT and _fraction_end(position, stop, POINT) == stop:
        _put(buffer, base, position, foreign)


@inlined
def _rewrite_field(
    buffer: Any, base: Any, start: Any, stop: Any, decimal: Any, thousands: Any, pad: Any, foreign: Any
) -> Any:
    """Rewrites a field that begins without blanks."""
    while stop > start and byte_at(stop - 1) in (SPACE, TAB, CR):
        stop -= 1
    if stop - start >= 2 and byte_at(start) == QUOTE and byte_at(stop - 1) == QUOTE:
        start, stop = start + 1, stop - 1
        while start < stop and byte_at(start) in (SPACE, TAB):
            start += 1
        while stop > start and byte_at(stop - 1) in (SPACE, TAB):
            stop -= 1
    _rewrite_number(buffer, base, start, stop, decimal, thousands, pad, foreign)


@inlined
def _rewrite_blanks(buffer: Any, base: Any, position: Any, stop: Any) -> Any:
    """Rewrites a run of blanks as tabs, and its first as a space unless it ends the record; returns where it ends."""
    gap = position
    while position < stop and byte_at(position) in (SPACE, TAB, CR):
        if byte_at(position) == SPACE:
            _put(buffer, base, position, TAB)
        position += 1
    if position < stop:
        _put(buffer, base, gap, SPACE)
    return position


@called
def _rewrite_fields(buffer: Any, base: Any, position: Any, stop: Any, codes: Any) -> Any:
    """Rewrites a record, from its first byte that is not blank to its line feed."""
    delimiter, decimal, thousands, runs, quotes = codes[0], codes[1], codes[2], codes[4] != 0, codes[5] != 0
    rewrites_numbers, pad = decimal != POINT or thousands >= 0, TAB if delimiter == SPACE else SPACE
    foreign = COMMA if delimiter != COMMA else APOSTROPHE  # which delimits nothing
    while position < stop:
        while position < stop and byte_at(position) in (SPACE, TAB) and byte_at(position) != delimiter:
            position += 1
        first = position
        if position < stop and byte_at(position) == QUOTE:
            after = _after_quote(position + 1, stop)
            if after < 0:
                after = stop  # a fault, of one line
            if quotes:
                feed = _find(position, after, LF)
                while feed < after:
                    _put(buffer, base, feed, QUOTED_FEED)
                    feed = _find(feed + 1, after, LF)
            position = after
        if runs:
            while position < stop and byte_at(position) not in (SPACE, TAB):
                position += 1
        else:
            position = _find(position, stop, delimiter)
        if rewrites_numbers:
            _rewrite_field(buffer, base, first, position, decimal, thousands, pad, foreign)
        position = _rewrite_blanks(buffer, base, position, stop) if runs else position + 1


def _normalize(buffer: Any, start: Any, stop: Any, is_last: Any, codes: Any) -> Any:
    """Rewrites the whole records of `buffer[start:stop]`; returns where the first one begins that is not whole.

    The last one need not end with a line feed if it `is_last`.
    """
    delimiter, comment, runs, quotes = codes[0], codes[3], codes[4] != 0, codes[5] != 0
    has_fields = runs or codes[1] != POINT or codes[2] >= 0  # that are rewritten; else only where quotes are
    pad = TAB if delimiter == SPACE else SPACE
    base = address(buffer)
    position, stop = base + start, base + stop
    while position < stop:
        end = _record_end(position, stop, delimiter, comment, runs, quotes)
        if end < 0:
            if not is_last:
                return position - base
            end = stop
        first = position
        while first < end and _is_blank(byte_at(first), delimiter, runs):
            if runs and byte_at(first) == SPACE:
                _put(buffer, base, first, TAB)
            first += 1
        if first < end and byte_at(first) == comment:
            while first < end:
                _put(buffer, base, first, pad)
                first += 1
        elif has_fields or (quotes and _find(first, end, QUOTE) < end):
            _rewrite_fields(buffer, base, first, end, codes)
        position = end + 1
    return min(position, stop) - base


@functools.cache
def normalize() -> Callable[..., int]:
    """Returns `_normalize` compiled without the GIL: (uint8 buffer, start, stop, is_last, int64 codes)."""
    word, array = types.int64, types.Array
    signature = word(array(types.uint8, 1, "C"), word, word, types.boolean, array(types.int64, 1, "C"))
    return compiled(_normalize, signature)


class Normalizer:
    """Rewrites lines of a dialect as plain ones."""

    def __init__(self, dialect: Dialect) -> None:
        self._codes = dialect.codes
        self._normalize = normalize()

    def __call__(self, buffer: Bytes, start: int, stop: int, *, is_last: bool) -> int:
        """Rewrites the whole records of a buffer; returns where the rest begins, which is left as it is."""
        return self._normalize(buffer, start, stop, is_last, self._codes)


def normalizer_of(dialect: Dialect) -> Normalizer | None:
    """Returns what rewrites the lines of a dialect; None for a plain one, whose lines are read as they are."""
    return None if dialect.is_plain else Normalizer(dialect)


def compile_dialects() -> None:
    """Compiles what finds and rewrites the rows of other dialects, or loads it from numba's cache on disk."""
    normalize()
    count()
    find()
