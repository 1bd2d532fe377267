"""Gathers what the statistics of a dataset's columns are made of: in parts, by several threads and workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from disttrain.data.table import sums
from disttrain.data.table.values import Values, text_of

MAX_NUMBERS = 10_000  # distinct numbers of a column that are counted one by one; fewer where there are many columns
MAX_ALL_NUMBERS = 1 << 20  # of all columns together
MAX_TEXTS = 1_000_000  # likewise texts, which may become a vocabulary
MAX_ALL_TEXTS = 4_000_000
MAX_TEXT_BYTES = 64 << 20  # of a column's distinct texts
MAX_ALL_TEXT_BYTES = 256 << 20
MAX_SAMPLE_ROWS = 1 << 14
MAX_SAMPLE_VALUES = 1 << 22
_ENTRIES = 1 << 12  # that a table begins with

Key = float | str


def max_counted(num_columns: int) -> tuple[int, int, int]:
    """Returns how many distinct numbers, texts, and bytes of these, of a column are counted one by one."""
    numbers = max(min(MAX_NUMBERS, MAX_ALL_NUMBERS // num_columns), 64)
    num_bytes = max(min(MAX_TEXT_BYTES, MAX_ALL_TEXT_BYTES // num_columns), 1 << 20)
    return numbers, min(MAX_TEXTS, max(MAX_ALL_TEXTS // num_columns, 10_000)), num_bytes


def sample_rows(num_columns: int) -> int:
    """Returns how many rows the sample for the medians has at most."""
    return max(min(MAX_SAMPLE_ROWS, MAX_SAMPLE_VALUES // num_columns), 256)


@dataclass(frozen=True, eq=False)
class Sums:
    """The sums over one part of a dataset: `floats` [columns, NUM_FLOATS] and `counts` [columns, NUM_COUNTS]."""

    floats: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def nothing(cls, num_columns: int) -> Sums:
        """Makes the sums over no rows."""
        floats = np.zeros((num_columns, sums.NUM_FLOATS))
        floats[:, sums.LOWEST], floats[:, sums.HIGHEST] = np.inf, -np.inf
        counts = np.zeros((num_columns, sums.NUM_COUNTS), np.int64)
        counts[:, [sums.FIRST_GAP, sums.FIRST_TEXT, sums.FIRST_ODD]] = sums.NOWHERE
        return cls(floats, counts)

    def then(self, other: Sums) -> Sums:
        """Returns the sums over this part and the one that follows it."""
        mine, others = self._numbers, other._numbers
        floats, counts = self.floats.copy(), self.counts + other.counts
        places = [sums.FIRST_GAP, sums.FIRST_TEXT, sums.FIRST_ODD]
        counts[:, places] = np.minimum(self.counts[:, places], other.counts[:, places])
        both = (mine > 0) & (others > 0)
        counts[:, sums.FALLS] += both & (other.floats[:, sums.FIRST] < self.floats[:, sums.LAST])
        counts[:, sums.RISES] += both & (other.floats[:, sums.FIRST] > self.floats[:, sums.LAST])
        share = others / np.maximum(mine + others, 1)
        apart = other.floats[:, sums.MEAN] - self.floats[:, sums.MEAN]
        floats[:, sums.MEAN] += apart * share
        floats[:, sums.SQUARES] += other.floats[:, sums.SQUARES] + apart * apart * mine * share
        floats[:, sums.LOWEST] = np.minimum(self.floats[:, sums.LOWEST], other.floats[:, sums.LOWEST])
        floats[:, sums.HIGHEST] = np.maximum(self.floats[:, sums.HIGHEST], other.floats[:, sums.HIGHEST])
        floats[:, sums.FIRST] = np.where(mine > 0, self.floats[:, sums.FIRST], other.floats[:, sums.FIRST])
        floats[:, sums.LAST] = np.where(others > 0, other.floats[:, sums.LAST], self.floats[:, sums.LAST])
        return Sums(floats, counts)

    @property
    def _numbers(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.counts[:, sums.NUMBERS] + self.counts[:, sums.TIMES])


@dataclass(eq=False)
class Sketches:
    """What is joined in any order: distinct values with their counts, HyperLogLog's registers, a sample of rows.

    Attributes:
        counted: for each column, its distinct values with their counts: numbers first, then texts; None where there
            are too many.
        registers: uint8 [columns, NUM_REGISTERS], of all values of a column that has too many.
        hashes: uint64 [rows] of the sample's rows, ascending.
        sample: float64 [rows, columns], NaN for what is no number.
    """

    counted: list[list[dict[Key, int] | None]]
    registers: npt.NDArray[np.uint8]
    hashes: npt.NDArray[np.uint64]
    sample: npt.NDArray[np.float64]

    @classmethod
    def nothing(cls, num_columns: int) -> Sketches:
        """Makes the sketches of no rows."""
        return Gatherer(num_columns).sketches()

    @classmethod
    def join(cls, parts: list[Sketches]) -> Sketches:
        """Joins the sketches of several threads or workers."""
        num_columns = parts[0].sample.shape[1]
        joined: list[list[dict[Key, int] | None]] = []
        max_numbers, max_texts, max_bytes = max_counted(num_columns)
        for column in range(num_columns):
            numbers, texts = ([part.counted[column][kind] for part in parts] for kind in range(2))
            joined.append([_joined(numbers, max_numbers), _joined(texts, max_texts, max_bytes)])
        hashes = np.concatenate([part.hashes for part in parts])
        order = np.argsort(hashes, kind="stable")[: sample_rows(num_columns)]
        sample = np.concatenate([part.sample for part in parts])[order]
        registers = np.max([part.registers for part in parts], axis=0)
        return cls(joined, registers, hashes[order], sample)

    def num_distinct(self, column: int) -> tuple[int, bool]:
        """Returns how many distinct values a column has, and whether that is exact."""
        numbers, texts = self.counted[column]
        if numbers is not None and texts is not None:
            return len(numbers) + len(texts), True
        return _estimate(self.registers[column]), False

    def medians(self) -> npt.NDArray[np.float64]:
        """Returns the median of each column's numbers in the sample, NaN where there are none: float64 [columns]."""
        found = np.full(self.sample.shape[1], np.nan)
        for column in range(len(found)):
            finite = self.sample[:, column][np.isfinite(self.sample[:, column])]
            if len(finite):
                found[column] = np.median(finite)
        return found


def _joined(parts: list[dict[Key, int] | None], limit: int, max_bytes: int = 1 << 62) -> dict[Key, int] | None:
    """Returns the counts of all parts together; None if any is unknown, or there are more values or bytes."""
    whole: dict[Key, int] = {}
    for part in parts:
        if part is None:
            return None
        for key, count in part.items():
            whole[key] = whole.get(key, 0) + count
        if len(whole) > limit:
            return None
    texts = [key for key in whole if isinstance(key, str)]
    num_bytes = sum(len(text.encode("utf-8", "surrogateescape")) + text.count('"') for text in texts)
    return whole if num_bytes <= max_bytes else None


def _estimate(registers: npt.NDArray[np.uint8]) -> int:
    """Returns HyperLogLog's estimate, with linear counting where there are few (Flajolet et al., 2007)."""
    size = len(registers)
    raw = 0.7213 / (1 + 1.079 / size) * size**2 / float(np.sum(2.0 ** -registers.astype(np.float64)))
    empty = int(np.count_nonzero(registers == 0))
    return round(size * np.log(size / empty)) if raw <= 2.5 * size and empty else round(raw)


@dataclass(eq=False)
class Gatherer:
    """One thread's: adds values to the sums of a part, and to its own sketches."""

    num_columns: int
    _used: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))

    def __post_init__(self) -> None:
        self._table = _empty_table(_ENTRIES)
        self._arena = np.empty(1 << 16, np.uint8)
        self._room = np.tile(np.array(max_counted(self.num_columns), np.int64), (self.num_columns, 1))
        self._registers = np.zeros((self.num_columns, sums.NUM_REGISTERS), np.uint8)
        self._limit = np.uint64(2**64 - 1)
        self._size = 0
        self._hashes = np.empty(0, np.uint64)
        self._sample = np.empty((0, self.num_columns))

    def add(self, part: Sums, buffer: npt.NDArray[np.uint8], values: Values, num_rows: int, base: int) -> None:
        """Adds the first rows of `values`, read from a buffer that begins at the file's offset `base`."""
        sums.add_sums()(values.values, values.tags, num_rows, values.row_starts, base, part.floats, part.counts)
        self._make_room(buffer, values, num_rows)
        sums.add_distinct()(
            buffer, values.values, values.tags, values.bounds, num_rows, *self._table, self._arena, self._room,
            self._registers, self._used,
        )  # fmt: skip
        self._draw(values, num_rows, base)

    def sketches(self) -> Sketches:
        """Returns what was gathered so far."""
        keys, columns, counts, is_text, places = self._table
        registers = self._registers.copy()
        sums.note_table()(keys, columns, registers)
        counted: list[list[dict[Key, int] | None]] = [
            [{} if room >= 0 else None for room in rooms] for rooms in self._room[:, :2].tolist()
        ]
        for place in np.flatnonzero(columns >= 0).tolist():
            kind = int(is_text[place])
            entries = counted[int(columns[place])][min(kind, 1)]
            if entries is not None:
                key = self._key(places[place], kind)
                entries[key] = entries.get(key, 0) + int(counts[place])
        order = np.argsort(self._hashes[: self._size], kind="stable")[: sample_rows(self.num_columns)]
        return Sketches(counted, registers, self._hashes[order], self._sample[order])

    def _key(self, place: npt.NDArray[np.int64], kind: int) -> Key:
        if not kind:
            return float(place[:1].view(np.float64)[0])
        first, length = place.tolist()
        return text_of(self._arena[first : first + length].tobytes(), is_quoted=kind == sums.QUOTED)

    def _make_room(self, buffer: npt.NDArray[np.uint8], values: Values, num_rows: int) -> None:
        size = len(self._table[0])
        most = int(self._used[0]) + num_rows * self.num_columns
        if most > size // 2:
            larger = _empty_table(1 << (2 * most).bit_length())
            sums.move_table()(*self._table, *larger)
            self._table = larger
        most = int(self._used[1]) + (len(buffer) - int(values.row_starts[0]) if num_rows else 0)
        if most > len(self._arena):
            arena = np.empty(2 * most, np.uint8)
            arena[: self._used[1]] = self._arena[: self._used[1]]
            self._arena = arena

    def _draw(self, values: Values, num_rows: int, base: int) -> None:
        most = sample_rows(self.num_columns)
        if len(self._hashes) < self._size + num_rows:
            room = self._size + num_rows + most
            self._hashes = np.resize(self._hashes, room)
            sample = np.empty((room, self.num_columns))
            sample[: self._size] = self._sample[: self._size]
            self._sample = sample
        self._size = sums.draw()(
            values.values, values.tags, num_rows, values.row_starts, base, self._limit, self._hashes, self._sample,
            self._size,
        )  # fmt: skip
        if self._size > 2 * most:
            order = np.argpartition(self._hashes[: self._size], most)[:most]
            self._hashes[:most], self._sample[:most] = self._hashes[order], self._sample[order]
            self._limit, self._size = self._hashes[:most].max() + np.uint64(1), most


def _empty_table(size: int) -> tuple[Any, ...]:
    columns = np.full(size, -1, np.int32)
    return (
        np.zeros(size, np.uint64), columns, np.zeros(size, np.int64), np.zeros(size, np.uint8),
        np.zeros((size, 2), np.int64),
    )  # fmt: skip


def compile_sums() -> None:
    """Compiles what gathers, or loads it from numba's cache on disk."""
    for compile_one in (sums.add_sums, sums.add_distinct, sums.move_table, sums.note_table, sums.draw):
        compile_one()
