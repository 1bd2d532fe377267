"""Whole numbers that float32 rounds to other ones: found while rows are parsed, and reported once per column."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from disttrain.data.place import Place

WHOLE_TO = 1 << 24  # float32 holds every whole number up to this one


@dataclass(frozen=True)
class DigitLoss:
    """A number that float32 rounds to another one: its column, its byte in the dataset's text, and where that is."""

    column: str
    offset: int
    place: Place
    text: str

    def describe(self) -> str:
        """Returns where the number is, what it is rounded to and what to do, as a sentence without its full stop."""
        return (
            f"{self.place}: column '{self.column}' holds {self.text}, which float32 rounds to "
            f"{_rounded(self.text)}: whole numbers above {WHOLE_TO:,} lose their last digits; subtract an offset "
            "from the column, scale it, or leave it out"
        )


def _rounded(text: str) -> int | float:
    with np.errstate(over="ignore"):
        value = float(np.float32(text))
    return int(value) if np.isfinite(value) else value


class DigitLosses:
    """The digit losses that any thread found in one dataset: for each column, the first one.

    With `is_strict`, the thread that finds one raises an error instead.
    """

    def __init__(self, *, is_strict: bool = False) -> None:
        self.is_strict = is_strict
        self._lock = threading.Lock()
        self._noted: dict[str, DigitLoss] = {}
        self._reported: set[str] = set()

    def note(self, loss: DigitLoss) -> None:
        """Keeps a loss, unless one on an earlier line of its column is known."""
        with self._lock:
            known = self._noted.get(loss.column)
            if known is None or loss.offset < known.offset:
                self._noted[loss.column] = loss

    def unreported(self) -> list[DigitLoss]:
        """Returns the loss of each column for which none has been reported yet, in the order of their places."""
        with self._lock:
            return sorted(
                (loss for name, loss in self._noted.items() if name not in self._reported), key=lambda loss: loss.offset
            )

    def mark_reported(self, losses: list[DigitLoss]) -> list[DigitLoss]:
        """Returns the first of these for each column not reported yet, and marks those columns as reported."""
        with self._lock:
            news = []
            for loss in sorted(losses, key=lambda loss: (loss.offset, loss.column)):
                if loss.column not in self._reported:
                    self._reported.add(loss.column)
                    news.append(loss)
            return news
