"""Rows that are left out because they cannot be read: noted while they are parsed, told at the end of an epoch."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from disttrain.data.place import Place
from disttrain.errors import DataError

MOST_NOTED = 100_000  # of an epoch, by each worker; the others are only counted


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read: where it stands, why, in a word and in a sentence, and the line."""

    place: Place
    kind: str
    cause: str
    text: str


@dataclass(frozen=True)
class BadRowsFound:
    """What a worker found in an epoch: rows, and how many there were of each kind."""

    rows: Sequence[BadRow] = ()
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())


class BadRows:
    """The bad rows that any thread found in one dataset, which has `num_rows`.

    A row that is found twice, because it is trained on and validated with, counts once.
    """

    def __init__(self, num_rows: int, max_fraction: float) -> None:
        self._num_rows = num_rows
        self._max_fraction = max_fraction
        self._lock = threading.Lock()
        self._rows: dict[Place, BadRow] = {}
        self._counts: Counter[str] = Counter()

    def note(self, row: BadRow) -> None:
        """Keeps a row; DataError if this worker alone has found too many."""
        with self._lock:
            if row.place in self._rows:
                return
            self._counts[row.kind] += 1
            if len(self._rows) < MOST_NOTED:
                self._rows[row.place] = row
            total = sum(self._counts.values())
        self.check(total, row)

    def take(self) -> BadRowsFound:
        """Returns what was found since the last call."""
        with self._lock:
            found = BadRowsFound(list(self._rows.values()), self._counts)
            self._rows, self._counts = {}, Counter()
        return found

    def check(self, total: int, example: BadRow) -> None:
        """Raises DataError if so many rows, of all workers, are too many."""
        if total > self._max_fraction * self._num_rows:
            raise DataError(
                f"{total:,} of {self._num_rows:,} rows are bad, more than --max-bad-fraction {self._max_fraction:g} "
                f"allows; one is {example.place}: {example.cause}"
            )
