"""Statistics of a dataset's columns: counts, gaps, distinct values, moments, order; kept as JSON with the index."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from disttrain.data.table import sums
from disttrain.data.table.gathering import Key, Sketches, Sums

FORMAT = 1
MOST_FREQUENT = 256  # numbers of a column that are kept with their counts


@dataclass(frozen=True)
class ColumnStatistics:
    """What one column holds.

    Attributes:
        name: the column's.
        numbers: fields that hold a finite number; likewise `times` (ISO 8601) and `texts`.
        missing: fields that hold nothing, or a word that stands for nothing.
        not_finite: fields that hold nan or inf.
        distinct: distinct values, exact or, if not `is_exact`, HyperLogLog's estimate.
        min, max, mean, std, median: of the numbers, or of times in seconds since 1970; NaN without any. `std` is that
            of the population; the median is of a sample of at least 256 rows, of all rows if there are few.
        is_whole: whether all numbers are whole.
        order: "ascending" or "descending" if no number is on the wrong side of the one before it and not all are the
            same, else "".
        first_missing, first_text, first_not_finite: offsets of the first such rows in the file, or None.
        values: the distinct values and how often each occurs, most frequent first; at most MOST_FREQUENT numbers, but
            all texts; None if there are too many texts to count.
    """

    name: str
    numbers: int
    times: int
    texts: int
    missing: int
    not_finite: int
    distinct: int
    is_exact: bool
    min: float
    max: float
    mean: float
    std: float
    median: float
    is_whole: bool
    order: str
    first_missing: int | None
    first_text: int | None
    first_not_finite: int | None
    values: Sequence[tuple[Key, int]] | None

    @property
    def count(self) -> int:
        """Fields that hold something."""
        return self.numbers + self.times + self.texts + self.not_finite


@dataclass(frozen=True)
class Statistics:
    """Those of a dataset of `num_rows` rows."""

    num_rows: int
    columns: tuple[ColumnStatistics, ...]

    def of(self, name: str) -> ColumnStatistics:
        """Returns those of a column; KeyError if it has none."""
        return self._by_name[name]

    @functools.cached_property
    def _by_name(self) -> dict[str, ColumnStatistics]:
        return {column.name: column for column in self.columns}

    def to_json(self) -> bytes:
        """Returns them as JSON, exact to the bit."""
        columns = [asdict(column) for column in self.columns]
        return json.dumps({"format": FORMAT, "num_rows": self.num_rows, "columns": columns}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Statistics | None:
        """Reads what `to_json` returned; None if it is of another format."""
        kept = json.loads(content)
        if kept.get("format") != FORMAT:
            return None
        return cls(kept["num_rows"], tuple(_column(column) for column in kept["columns"]))


def _column(kept: dict[str, Any]) -> ColumnStatistics:
    values = kept.pop("values")
    return ColumnStatistics(**kept, values=None if values is None else [(key, count) for key, count in values])


def conclude(names: Sequence[str], parts: Sequence[Sums], sketches: Sketches) -> Statistics:
    """Returns the statistics of columns from the sums of all parts, in their order, and the joined sketches."""
    whole = functools.reduce(Sums.then, parts, Sums.nothing(len(names)))
    medians = sketches.medians().tolist()
    columns = []
    for column, name in enumerate(names):
        floats, counts = whole.floats[column].tolist(), whole.counts[column].tolist()
        numbers = counts[sums.NUMBERS] + counts[sums.TIMES]
        distinct, is_exact = sketches.num_distinct(column)
        columns.append(
            ColumnStatistics(
                name=name,
                numbers=counts[sums.NUMBERS],
                times=counts[sums.TIMES],
                texts=counts[sums.TEXTS],
                missing=counts[sums.GAPS],
                not_finite=counts[sums.NOT_FINITE],
                distinct=min(distinct, numbers + counts[sums.TEXTS]),
                is_exact=is_exact,
                min=floats[sums.LOWEST] if numbers else math.nan,
                max=floats[sums.HIGHEST] if numbers else math.nan,
                mean=floats[sums.MEAN] if numbers else math.nan,
                std=math.sqrt(floats[sums.SQUARES] / numbers) if numbers else math.nan,
                median=medians[column],
                is_whole=numbers > 0 and not counts[sums.NOT_WHOLE],
                order=_order(counts),
                first_missing=_offset(counts[sums.FIRST_GAP]),
                first_text=_offset(counts[sums.FIRST_TEXT]),
                first_not_finite=_offset(counts[sums.FIRST_ODD]),
                values=_most_frequent(*sketches.counted[column]),
            )
        )
    num_rows = sum(whole.counts[0, [sums.NUMBERS, sums.TIMES, sums.TEXTS, sums.GAPS, sums.NOT_FINITE]].tolist())
    return Statistics(num_rows, tuple(columns))


def _order(counts: list[int]) -> str:
    falls, rises = counts[sums.FALLS], counts[sums.RISES]
    if bool(falls) == bool(rises):
        return ""
    return "ascending" if rises else "descending"


def _offset(found: int) -> int | None:
    return None if found >= sums.NOWHERE else found


def _most_frequent(numbers: dict[Key, int] | None, texts: dict[Key, int] | None) -> list[tuple[Key, int]] | None:
    """Returns values with their counts, the most frequent first; of those that are as frequent, the smallest first."""
    if texts is None:
        return None
    order = lambda item: (-item[1], item[0])  # noqa: E731
    return sorted(texts.items(), key=order) + sorted((numbers or {}).items(), key=order)[:MOST_FREQUENT]
