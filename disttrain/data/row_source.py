"""What streaming asks of a dataset, whatever format its files have: its columns, its blocks, and its rows by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from disttrain.data.bad_rows import BadRows
from disttrain.data.digit_losses import DigitLosses
from disttrain.data.place import Place
from disttrain.data.ranges import Range
from disttrain.data.table.columns import Table
from disttrain.storage.base import FileInfo
from disttrain.threads import DaemonPool

Floats = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]


class Rows(Protocol):
    """A sequence of rows, handed out one after another."""

    def fill(self, out: Floats) -> None:
        """Puts the next `len(out)` rows into `out`, float32 `[rows, columns]`, C-contiguous."""

    def take(self, num_rows: int) -> Floats:
        """Returns the next rows as float32 `[rows, columns]`: read-only where that saves a copy."""

    def finish(self) -> bool:
        """Returns, after the last row, whether the file was read; FileChanged if its rows differ from the index."""


class RowSource(Protocol):
    """An open dataset, whose rows are numbered from 0.

    A row's columns are `feature_names`, then `target_names`, whatever their order in the files.
    """

    @property
    def url(self) -> str:
        """The path or URL as the user gave it."""

    @property
    def files(self) -> Sequence[FileInfo]:
        """The files that the rows come from, in the order of the rows, as they were when they were opened."""

    @property
    def fingerprint(self) -> str:
        """What differs when the content of any file may differ."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns that the model gets."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """The columns that the loss compares."""

    @property
    def num_rows(self) -> int:
        """Rows of all files."""

    @property
    def num_columns(self) -> int:
        """Columns of a row: features, targets and, where `is_weighted`, the weight."""

    @property
    def is_weighted(self) -> bool:
        """Whether a row's last column is its weight."""

    @property
    def table(self) -> Table | None:
        """What is done to each column; None where all become float32 as they are."""

    @property
    def digit_losses(self) -> DigitLosses:
        """Numbers that float32 rounds, noted while they are parsed."""

    @property
    def bad_rows(self) -> BadRows | None:
        """Rows that cannot be read, noted while they are parsed; None where these are errors."""

    @property
    def block_bounds(self) -> Int64s:
        """Where blocks begin and end, int64 [num_blocks + 1]: rows that are found and read with a single read."""

    @property
    def max_block_bytes(self) -> int:
        """Bytes of text that a block has at most."""

    @property
    def block_bytes(self) -> int:
        """What one read should ask for."""

    def rows(self, ranges: Iterable[Range], readers: DaemonPool, *, block_bytes: int, num_ahead: int = 1) -> Rows:
        """Returns the rows of some ranges in turn, read ahead by `readers` in blocks of `block_bytes`."""

    def place_of(self, row: int) -> Place:
        """Returns the file and the line of it, from 1, on which a row stands."""

    def check_unchanged(self) -> None:
        """Raises FileChanged if a file is no longer as it was when it was opened."""

    def targets_only(self) -> RowSource:
        """Returns the same rows with the targets as their only columns."""

    def how_read(self) -> Mapping[str, Any]:
        """Tells what else the parsed rows depend on, as JSON: the format's own part of a cached entry's identity."""

    def load_finding(self, cache_dir: Path, name: str) -> bytes | None:
        """Returns what was kept of these very files under a name, or None."""

    def keep_finding(self, cache_dir: Path, name: str, content: bytes) -> None:
        """Keeps what was found out about the files, with their index."""
