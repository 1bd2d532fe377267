"""Whole numbers that float32 rounds to others: noticed where rows are parsed, told once a column."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from disttrain.errors import redacted

WHOLE_TO = 1 << 24  # up to here float32 holds every whole number


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
