"""Rows as half-open ranges: one range, and a set of ranges that are joined where they touch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """The half-open range of rows [start, stop)."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class RangeSet:
    """Rows, in ascending ranges `[start, stop)` with gaps between them."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, rows: Range) -> None:
        """Adds these rows, some or all of which may already be in the set."""
        if not len(rows):
            return
        first = bisect_left(self._stops, rows.start)  # the first range that touches or overlaps, or comes after
        last = bisect_right(self._starts, rows.stop)
        start = min([rows.start, *self._starts[first:last]])
        stop = max([rows.stop, *self._stops[first:last]])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def split(self, rows: Range) -> list[tuple[Range, bool]]:
        """Splits rows into ascending parts, each with whether it is in the set; neighbours differ, none is empty."""
        parts: list[tuple[Range, bool]] = []
        if not len(rows):
            return parts
        position = rows.start
        for number in range(bisect_right(self._stops, rows.start), bisect_left(self._starts, rows.stop)):
            start, stop = max(self._starts[number], position), min(self._stops[number], rows.stop)
            if position < start:
                parts.append((Range(position, start), False))
            parts.append((Range(start, stop), True))
            position = stop
        if position < rows.stop:
            parts.append((Range(position, rows.stop), False))
        return parts

    def ranges(self) -> list[Range]:
        """Returns all ranges, in ascending order."""
        return [Range(start, stop) for start, stop in zip(self._starts, self._stops, strict=True)]

    def __len__(self) -> int:
        return sum(self._stops) - sum(self._starts)
