"""Finds, in the text of parsed rows, whole numbers that float32 rounds to others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from disttrain.data.csv.decimals import DOT, LETTER_E, LOWER, MINUS, PLUS, QUOTE, ZERO, byte_or_lf, is_digit, skip_pads
from disttrain.data.csv.field_scanner import skip_blanks, skip_field
from disttrain.native import address, byte_at, called, compiled

_U10 = np.uint64(10)
_MOST = np.uint64((2**64 - 10) // 10)  # after a larger number, one digit more may not fit
_TOP = np.float32(2.0**64)


def find_losses(
    buffer: npt.NDArray[np.uint8], start: int, stop: int, delimiter: str, take: npt.NDArray[np.int32]
) -> list[tuple[int, int, int]]:
    """Returns (field, first byte, byte after the number) of the first number that loses digits in each field taken.

    Args:
        buffer: bytes, of which `[start, stop)` are whole rows that were parsed without a fault.
        start: a row's first byte.
        stop: where the rows end.
        delimiter: the character between two fields.
        take: int32 [fields], negative for a field that is not examined.
    """
    found = np.full((len(take), 2), -1, np.int64)
    _compiled()(buffer, start, stop, ord(delimiter), take, found)
    return [(field, *found[field].tolist()) for field in np.flatnonzero(found[:, 0] >= 0).tolist()]


@called
def _loses_digits(position: Any, stop: Any) -> Any:
    """Returns the byte after a whole number, written without an exponent, that float32 rounds to another; else -1."""
    if byte_or_lf(position, stop) in (MINUS, PLUS):
        position += 1
    number, is_long = np.uint64(0), False
    while is_digit(byte_or_lf(position, stop)):
        is_long |= number > _MOST
        number = number * _U10 + np.uint64(byte_at(position) - ZERO)
        position += 1
    end = position
    if byte_or_lf(position, stop) == DOT:
        position += 1
        while byte_or_lf(position, stop) == ZERO:
            position += 1
        end = position
    after = byte_or_lf(position, stop)
    if is_digit(after) or after | LOWER == LETTER_E:
        return np.int64(-1)
    rounded = np.float32(np.float64(number))
    return end if is_long or rounded >= _TOP or np.uint64(rounded) != number else np.int64(-1)


def _find(buffer: Any, start: Any, stop: Any, delimiter: Any, take: Any, found: Any) -> None:
    base = address(buffer)
    position, stop = base + start, base + stop
    while True:
        position = skip_blanks(position, stop, delimiter)
        if position >= stop:
            return
        for field in range(len(take)):
            first = skip_pads(position, stop, delimiter)
            position = skip_field(position, stop, delimiter)
            if take[field] >= 0 and found[field, 0] < 0:
                if byte_or_lf(first, stop) == QUOTE:
                    first = skip_pads(first + 1, stop, -1)
                end = _loses_digits(first, stop)
                if end >= 0:
                    found[field, 0], found[field, 1] = first - base, end - base
            position = min(position + 1, stop)


@functools.cache
def _compiled() -> Callable[..., None]:
    """Returns `_find` compiled without the GIL; it is compiled when a file first needs it."""
    word = types.int64
    buffer, take = types.Array(types.uint8, 1, "C", readonly=True), types.Array(types.int32, 1, "C", readonly=True)
    return compiled(_find, types.void(buffer, word, word, word, take, types.Array(word, 2, "C")), error_model="numpy")
