"""The compiled loops that find where rows start: at the first byte of a line that is not blank.

A space, a tab and a carriage return are blanks, unless one of them is the delimiter: a line of delimiters alone is a
row of empty fields.

Eight bytes are examined as one 64-bit word, so that the compiler turns the loop into SIMD instructions (for the tricks
with carries, see Warren, "Hacker's Delight", 6-1). A block in which a byte above 0x20 follows every line feed has as
many rows as line feeds. Only the other blocks (blank lines, lines that begin with blanks or with control characters)
are scanned byte by byte.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core import types

from disttrain.native import compiled

BLOCK_WORDS = 240  # at most 255, so that counters of one byte cannot overflow; a multiple of the widest SIMD register

TAB, LF, CR, SPACE = 9, 10, 13, 32
_LINE_FEEDS = np.uint64(0x0A0A0A0A0A0A0A0A)
_LOW_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
_HIGH_BITS = np.uint64(0x8080808080808080)
_ABOVE_SPACE = np.uint64(0x5F5F5F5F5F5F5F5F)  # 0x7f - 0x20: added to a byte above 0x20, it sets the high bit
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_LANES = np.uint64(0x0001000100010001)
_U0, _U7, _U8, _U48, _U56, _U63 = (np.uint64(n) for n in (0, 7, 8, 48, 56, 63))

_F = TypeVar("_F", bound=Callable[..., Any])


def _inlined(function: _F) -> _F:
    return cast(_F, numba.njit(forceinline=True)(function))


@_inlined
def count_feeds(words: Any, first: Any, stop: Any, at_start: Any) -> Any:
    """Returns the line feeds in `words[first:stop]`, and whether a byte up to 0x20 follows a line feed.

    If `at_start`, the first byte counts as following one.
    """
    counters = _U0
    suspicious = _U0
    previous = np.uint64(at_start) << _U63
    for i in range(first, stop):
        word = words[i]
        feeds = word ^ _LINE_FEEDS
        feeds = ~(((feeds & _LOW_BITS) + _LOW_BITS) | feeds) & _HIGH_BITS  # the high bit of each byte that is a feed
        above = ((word & _LOW_BITS) + _ABOVE_SPACE) | word  # the high bit of each byte above 0x20
        suspicious |= ((feeds << _U8) | (previous >> _U56)) & ~above
        counters += feeds >> _U7
        previous = feeds
    pairs = (counters & _EVEN_BYTES) + ((counters >> _U8) & _EVEN_BYTES)
    return np.int64((pairs * _LANES) >> _U48), suspicious != _U0


@_inlined
def _is_blank(byte: Any, delimiter: Any) -> Any:
    return byte in (SPACE, TAB, CR) and byte != delimiter


@_inlined
def _walk(buffer: Any, first: Any, stop: Any, delimiter: Any, at_start: Any) -> Any:
    """Returns (rows, line feeds, whether the last line is blank so far) of `buffer[first:stop]`, byte by byte."""
    rows = 0
    feeds = 0
    for i in range(first, stop):
        byte = buffer[i]
        if byte == LF:
            feeds += 1
            at_start = True
        elif at_start and not _is_blank(byte, delimiter):
            rows += 1
            at_start = False
    return rows, feeds, at_start


def _find_row(buffer: Any, start: Any, stop: Any, delimiter: Any, at_start: Any, skip: Any) -> Any:
    """Finds where the row after `skip` others starts in `buffer[start:stop]`.

    `at_start`: whether the line that contains `start` has only blanks before it. Returns (position, or -1 if there are
    too few rows; rows passed; line feeds passed; `at_start` for the bytes that follow).
    """
    rows = 0
    feeds = 0
    for i in range(start, stop):
        byte = buffer[i]
        if byte == LF:
            feeds += 1
            at_start = True
        elif at_start and not _is_blank(byte, delimiter):
            if rows == skip:
                return i, rows, feeds, at_start
            rows += 1
            at_start = False
    return -1, rows, feeds, at_start


def _count_rows(buffer: Any, words: Any, num_bytes: Any, delimiter: Any, at_start: Any) -> Any:
    """Returns (rows that start in `buffer[:num_bytes]`, line feeds, `at_start` after it); `words` views `buffer`."""
    rows = 0
    feeds = 0
    num_words = num_bytes // 8
    for first in range(0, num_words, BLOCK_WORDS):
        stop = min(first + BLOCK_WORDS, num_words)
        block_feeds, suspicious = count_feeds(words, first, stop, at_start)
        if suspicious:
            more_rows, _, at_start = _walk(buffer, first * 8, stop * 8, delimiter, at_start)
        else:
            ends_line = buffer[stop * 8 - 1] == LF
            more_rows = at_start + block_feeds - ends_line
            at_start = ends_line
        rows += more_rows
        feeds += block_feeds
    more_rows, more_feeds, at_start = _walk(buffer, num_words * 8, num_bytes, delimiter, at_start)
    return rows + more_rows, feeds + more_feeds, at_start


@functools.cache
def count_rows() -> Callable[..., tuple[int, int, bool]]:
    """Returns `_count_rows` compiled without the GIL: (uint8 buffer, it as uint64, num_bytes, delimiter, at_start)."""
    word = types.int64
    arguments = (_bytes_type(), types.Array(types.uint64, 1, "C"), word, word, types.boolean)
    results = types.Tuple((word, word, types.boolean))  # type: ignore[no-untyped-call]
    return compiled(_count_rows, results(*arguments))


@functools.cache
def find_row() -> Callable[..., tuple[int, int, int, bool]]:
    """Returns `_find_row` compiled without the GIL: (uint8 buffer, start, stop, delimiter, at_start, skip)."""
    word = types.int64
    arguments = (_bytes_type(), word, word, word, types.boolean, word)
    results = types.Tuple((word, word, word, types.boolean))  # type: ignore[no-untyped-call]
    return compiled(_find_row, results(*arguments))


def _bytes_type() -> Any:
    return types.Array(types.uint8, 1, "C")
