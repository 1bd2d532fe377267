"""Whole numbers that float32 rounds to others: noticed where rows are parsed, told once a column."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from disttrain.compiling import compiled
from disttrain.decimals import (
    DOT,
    LETTER_E,
    LOWER,
    MINUS,
    PLUS,
    QUOTE,
    ZERO,
    address,
    byte_at,
    byte_or_lf,
    called,
    is_digit,
    skip_pads,
)
from disttrain.kernel import skip_blanks, skip_field
from disttrain.redaction import redacted

WHOLE_TO = 1 << 24  # up to here float32 holds every whole number
_U10 = np.uint64(10)
_MOST = np.uint64((2**64 - 10) // 10)  # after which one digit more may not fit
_TOP = np.float32(2.0**64)


@dataclass(frozen=True)
class DigitLoss:
    """A column's number that becomes another one, and the line of the file on which it stands."""

    column: str
    line: int
    text: str

    def describe(self, url: str) -> str:
        """What stands where, what becomes of it and what helps, as a sentence without its full stop."""
        return (
            f"{redacted(url)}, line {self.line}: column '{self.column}' holds {self.text}, which float32 rounds to "
            f"{_rounded(self.text)}: whole numbers above {WHOLE_TO:,} lose their last digits; subtract an offset "
            "from the column, scale it, or leave it out"
        )


def _rounded(text: str) -> int | float:
    with np.errstate(over="ignore"):
        value = float(np.float32(text))
    return int(value) if np.isfinite(value) else value


def find_losses(
    buffer: npt.NDArray[np.uint8], start: int, stop: int, delimiter: str, take: npt.NDArray[np.int32]
) -> list[tuple[int, int, int]]:
    """(field, first byte, byte after the number) of the first number that loses digits in each field that is taken.

    Args:
        buffer: of which `[start, stop)` are whole rows that were parsed without a fault.
        start: a row's first byte.
        stop: where the rows end.
        delimiter: what stands between two fields.
        take: int32 [fields], below 0 for a field that is not looked at.
    """
    found = np.full((len(take), 2), -1, np.int64)
    _compiled()(buffer, start, stop, ord(delimiter), take, found)
    return [(field, *found[field].tolist()) for field in np.flatnonzero(found[:, 0] >= 0).tolist()]


@called
def _loses_digits(position: Any, stop: Any) -> Any:
    """The byte after a whole number, written without an exponent, that is another one as a float32; else -1."""
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
    """The compiled `_find`, without the GIL: compiled where a file first needs it."""
    word = types.int64
    buffer, take = types.Array(types.uint8, 1, "C", readonly=True), types.Array(types.int32, 1, "C", readonly=True)
    return compiled(_find, types.void(buffer, word, word, word, take, types.Array(word, 2, "C")), error_model="numpy")


class DigitLosses:
    """What was noticed of one file, by any of its threads; the first line of each column stays.

    With `is_strict`, whoever notices one raises an error instead.
    """

    def __init__(self, *, is_strict: bool = False) -> None:
        self.is_strict = is_strict
        self._lock = threading.Lock()
        self._noted: dict[str, DigitLoss] = {}
        self._told: set[str] = set()

    def note(self, loss: DigitLoss) -> None:
        """Keeps it, unless one of an earlier line of its column is there."""
        with self._lock:
            known = self._noted.get(loss.column)
            if known is None or loss.line < known.line:
                self._noted[loss.column] = loss

    def untold(self) -> list[DigitLoss]:
        """One of each column of which none was told yet, in the order of their lines."""
        with self._lock:
            return sorted(
                (loss for name, loss in self._noted.items() if name not in self._told), key=lambda loss: loss.line
            )

    def tell(self, losses: list[DigitLoss]) -> list[DigitLoss]:
        """The first of these in each column of which none was told yet; from now on they are."""
        with self._lock:
            news = []
            for loss in sorted(losses, key=lambda loss: (loss.line, loss.column)):
                if loss.column not in self._told:
                    self._told.add(loss.column)
                    news.append(loss)
            return news
