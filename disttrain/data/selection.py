"""Some rows of a dataset as a dataset of its own: those before a limit, and those that are, or are not, held out.

Whether a row is held out depends on its number and a seed alone: so it is the same for any shards, workers and order.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from disttrain.data.place import Place
from disttrain.data.ranges import Range
from disttrain.data.row_source import Floats, Int64s, Rows, RowSource
from disttrain.data.shuffle import key_of, mixed
from disttrain.errors import DataError
from disttrain.native import compiled

if TYPE_CHECKING:
    from disttrain.data.bad_rows import BadRows
    from disttrain.data.digit_losses import DigitLosses
    from disttrain.data.table.columns import Table
    from disttrain.storage.base import FileInfo
    from disttrain.threads import DaemonPool

_PURPOSE = 0x5EED  # sets the draws apart from those of the shuffling
_AT_ONCE = 1 << 12  # rows that are parsed before those that are taken are copied


@dataclass(frozen=True)
class Choice:
    """Which rows are taken: of the first `limit`, those of the share that is held out, or all others."""

    limit: int
    share: float = 0.0
    seed: int = 0
    is_held_out: bool = False

    @property
    def key(self) -> int:
        """What the draws of rows depend on."""
        return key_of(self.seed, _PURPOSE)

    @property
    def threshold(self) -> int:
        """A row is held out if its draw is below this."""
        return min(int(self.share * 2.0**64), 2**64 - 1)

    def numbers(self, rows: Range) -> Int64s:
        """Returns the numbers of the rows that are taken among some, int64 [rows taken]."""
        numbers = np.arange(rows.start, min(rows.stop, self.limit), dtype=np.int64)[:, np.newaxis]
        return numbers[: self.keep(_keep_of(np.int64), numbers, rows.start), 0]

    def keep(self, keep: Callable[..., int], rows: npt.NDArray[Any], first_row: int) -> int:
        """Moves the rows that are taken to the beginning of an array, and returns how many there are."""
        return keep(rows, first_row, np.uint64(self.key), np.uint64(self.threshold), self.is_held_out)


class SelectedRows:
    """The rows of a choice among those of some ranges; `base` gives the ranges' rows one after another."""

    def __init__(self, base: Rows, ranges: Iterator[Range], choice: Choice, num_columns: int) -> None:
        self._base = base
        self._ranges = ranges
        self._choice = choice
        self._num_columns = num_columns
        self._range = Range(0, 0)  # rows that are not parsed yet
        self._taken: Floats = np.empty((0, num_columns), np.float32)  # rows that were not asked for yet

    def fill(self, out: Floats) -> None:
        """Puts the next `len(out)` rows into `out`."""
        filled = 0
        while filled < len(out):
            rows = self._taken[: len(out) - filled]
            out[filled : filled + len(rows)] = rows
            filled += len(rows)
            self._taken = self._taken[len(rows) :]
            if filled < len(out):
                self._go_on()

    def take(self, num_rows: int) -> Floats:
        """Returns the next rows in a new array."""
        out = np.empty((num_rows, self._num_columns), np.float32)
        self.fill(out)
        return out

    def finish(self) -> bool:
        """Returns whether the files were read; FileChanged if their rows differ from the index."""
        return self._base.finish()

    def _go_on(self) -> None:
        if not len(self._range):
            self._range = next(self._ranges)
        part = Range(self._range.start, min(self._range.start + _AT_ONCE, self._range.stop))
        self._range = Range(part.stop, self._range.stop)
        parsed = np.array(self._base.take(len(part)), order="C")
        count = self._choice.keep(_keep_of(np.float32), parsed, part.start)
        self._taken = parsed[:count]


@dataclass(frozen=True, eq=False)
class SelectedSource:
    """The rows of a dataset that a choice takes, numbered from 0; a `RowSource`."""

    base: RowSource
    choice: Choice
    bounds: Int64s  # rows taken before each block of the base, and in all
    block_bounds: Int64s

    @classmethod
    def of(cls, base: RowSource, choice: Choice) -> SelectedSource:
        """Counts the rows that are taken; DataError if there are none."""
        taken = _count()(np.minimum(base.block_bounds, choice.limit), choice.key, choice.threshold, choice.is_held_out)
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(taken)])
        if not bounds[-1]:
            which = "held out" if choice.is_held_out else "left to train on"
            raise DataError(f"{base.url}: of {min(choice.limit, base.num_rows):,} rows, none is {which}")
        return cls(base, choice, bounds, np.unique(bounds))

    @property
    def url(self) -> str:
        """The dataset's."""
        return self.base.url

    @property
    def files(self) -> Sequence[FileInfo]:
        """The dataset's."""
        return self.base.files

    @property
    def fingerprint(self) -> str:
        """The dataset's."""
        return self.base.fingerprint

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns that the model gets."""
        return self.base.feature_names

    @property
    def target_names(self) -> tuple[str, ...]:
        """The columns that the loss compares."""
        return self.base.target_names

    @property
    def num_rows(self) -> int:
        """Rows that are taken."""
        return int(self.bounds[-1])

    @property
    def num_columns(self) -> int:
        """Columns of a row."""
        return self.base.num_columns

    @property
    def is_weighted(self) -> bool:
        """Whether a row's last column is its weight."""
        return self.base.is_weighted

    @property
    def table(self) -> Table | None:
        """What is done to each column."""
        return self.base.table

    @property
    def digit_losses(self) -> DigitLosses:
        """Numbers that float32 rounds."""
        return self.base.digit_losses

    @property
    def bad_rows(self) -> BadRows | None:
        """Rows that cannot be read."""
        return self.base.bad_rows

    @property
    def max_block_bytes(self) -> int:
        """Bytes of text that a block has at most."""
        return self.base.max_block_bytes

    @property
    def block_bytes(self) -> int:
        """What one read should ask for."""
        return self.base.block_bytes

    def rows(self, ranges: Iterable[Range], readers: DaemonPool, *, block_bytes: int, num_ahead: int = 1) -> Rows:
        """Returns the rows of some ranges in turn; the rows between them are parsed, and left out."""
        of_base, own = tee(
            Range(self._base_row(one.start), self._base_row(one.stop - 1) + 1) for one in ranges if len(one)
        )
        parsed = self.base.rows(of_base, readers, block_bytes=block_bytes, num_ahead=num_ahead)
        return SelectedRows(parsed, own, self.choice, self.num_columns)

    def place_of(self, row: int) -> Place:
        """Returns the file and the line on which a row stands."""
        return self.base.place_of(self._base_row(row))

    def check_unchanged(self) -> None:
        """Raises FileChanged if a file is no longer as it was when it was opened."""
        self.base.check_unchanged()

    def targets_only(self) -> SelectedSource:
        """Returns the same rows with the targets as their only columns."""
        return replace(self, base=self.base.targets_only())

    def how_read(self) -> Mapping[str, Any]:
        """Tells what else the parsed rows depend on."""
        return {**self.base.how_read(), "choice": asdict(self.choice)}

    def load_finding(self, cache_dir: Path, name: str) -> bytes | None:
        """Returns what was kept of these very rows under a name, or None."""
        return self.base.load_finding(cache_dir, self._named(name))

    def keep_finding(self, cache_dir: Path, name: str, content: bytes) -> None:
        """Keeps what was found out about these rows."""
        self.base.keep_finding(cache_dir, self._named(name), content)

    def _named(self, name: str) -> str:
        return f"{name}-{hashlib.sha256(str(self.choice).encode()).hexdigest()[:12]}"

    def _base_row(self, row: int) -> int:
        """Returns the number that a row has in the whole dataset."""
        block = int(np.searchsorted(self.bounds, row, side="right")) - 1
        rows = Range(*self.base.block_bounds[block : block + 2].tolist())
        return int(self.choice.numbers(rows)[row - int(self.bounds[block])])


def _keep(rows: Any, first_row: Any, key: Any, threshold: Any, held_out: Any) -> Any:
    """Moves the rows that are taken to the beginning of `rows`; returns how many there are."""
    count = 0
    for number in range(len(rows)):
        if (mixed(key, first_row + number) < threshold) == held_out:
            for column in range(rows.shape[1]):
                rows[count, column] = rows[number, column]
            count += 1
    return count


def _count_taken(bounds: Any, key: Any, threshold: Any, held_out: Any) -> Any:
    """Returns how many rows are taken of those between each two bounds, int64 [bounds - 1]."""
    counts = np.zeros(len(bounds) - 1, np.int64)
    for block in range(len(counts)):
        for row in range(bounds[block], bounds[block + 1]):
            counts[block] += (mixed(key, row) < threshold) == held_out
    return counts


@functools.cache
def _keep_of(dtype: Any) -> Callable[..., int]:
    """Returns `_keep` compiled for rows of one type, without the GIL."""
    word = types.float32 if dtype is np.float32 else types.int64
    rows = types.Array(word, 2, "C")
    return compiled(_keep, types.int64(rows, types.int64, types.uint64, types.uint64, types.boolean))


@functools.cache
def _count() -> Callable[..., Int64s]:
    """Returns `_count_taken` compiled without the GIL."""
    bounds = types.Array(types.int64, 1, "C")
    return compiled(_count_taken, bounds(bounds, types.uint64, types.uint64, types.boolean))


def compile_selection() -> None:
    """Compiles what takes rows, or loads it from numba's cache on disk."""
    _keep_of(np.float32)
    _keep_of(np.int64)
    _count()
