"""A source of rows: an open file with its header, its index and the columns chosen from it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from disttrain.data.csv.header import Header, HeaderMode, read_header
from disttrain.data.csv.index import CHUNK_BYTES, Index, index_file, keep_beside, load_beside
from disttrain.data.csv.parsed_rows import ParsedRows
from disttrain.data.csv.parser import Layout
from disttrain.data.digit_losses import DigitLosses
from disttrain.data.ranges import Range
from disttrain.data.row_source import Int64s
from disttrain.data.shuffle import block_bounds
from disttrain.errors import DataError, UsageError
from disttrain.storage.base import FileInfo, Reader
from disttrain.storage.open import check_unchanged, open_reader
from disttrain.threads import DaemonPool

INDEX_BLOCK_BYTES = CHUNK_BYTES + (64 << 10)
MAX_LISTED = 50  # most columns that a message names
DELIMITERS = (";", "\t", "|", ",", " ")  # candidates to suggest if the given one does not occur


@dataclass(frozen=True, eq=False)
class OpenCsv:
    """An open CSV with the columns chosen from it, before its rows are indexed."""

    reader: Reader
    header: Header
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]

    @classmethod
    def open(
        cls,
        url: str,
        *,
        features: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        header: HeaderMode = "auto",
        delimiter: str = ",",
    ) -> OpenCsv:
        """Opens a path or URL and chooses its columns; raises what `Source.open` raises, except for a lack of rows."""
        reader = open_reader(url)
        try:
            found = read_header(reader, mode=header, delimiter=delimiter)
            return cls(reader, found, *choose_columns(found, features, targets, where=url))
        except BaseException:
            reader.close()
            raise

    def indexed(self, index: Index, *, is_strict: bool = False) -> Source:
        """Returns the source with this index; DataError for a file without rows.

        `is_strict` is `Source.open`'s `strict`.
        """
        if index.num_rows == 0:
            raise DataError(f"{self.reader.info.url}: has a header line but no rows")
        layout = make_layout(self.header, self.feature_names + self.target_names)
        losses = DigitLosses(is_strict=is_strict)
        return Source(self.reader, self.header, index, self.feature_names, self.target_names, layout, losses)


@dataclass(frozen=True, eq=False)
class Source:
    """An open CSV with its index and chosen columns; a context manager, whose `close` may be called twice.

    The rows' columns are `feature_names`, then `target_names`, whatever their order in the file.
    """

    reader: Reader
    header: Header
    index: Index
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    layout: Layout
    digit_losses: DigitLosses

    @classmethod
    def open(
        cls,
        url: str,
        *,
        features: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        header: HeaderMode = "auto",
        delimiter: str = ",",
        cache_dir: Path,
        num_threads: int = 1,
        strict: bool = False,
    ) -> Source:
        """Opens a path or URL, chooses its columns and loads or makes its index.

        The default target is the last column; the default features are all other columns that have a name. With
        `strict`, parsing a whole number that float32 rounds to another one raises a DataError. Raises UsageError for a
        file or column that does not exist, DataError for a file without rows.
        """
        opened = OpenCsv.open(url, features=features, targets=targets, header=header, delimiter=delimiter)
        try:
            index = index_file(opened.reader, opened.header, cache_dir, num_threads=num_threads)
            return opened.indexed(index, is_strict=strict)
        except BaseException:
            opened.reader.close()
            raise

    @property
    def url(self) -> str:
        """The path or URL as it was given."""
        return self.reader.info.url

    @property
    def info(self) -> FileInfo:
        """The file as it was when it was opened."""
        return self.reader.info

    @property
    def files(self) -> tuple[FileInfo, ...]:
        """The one file."""
        return (self.info,)

    @property
    def fingerprint(self) -> str:
        """The file's."""
        return self.info.fingerprint

    @property
    def num_rows(self) -> int:
        """Rows of the whole file."""
        return self.index.num_rows

    @property
    def num_columns(self) -> int:
        """Columns of a streamed row: features and targets."""
        return self.layout.num_columns

    @property
    def block_bounds(self) -> Int64s:
        """Where the rows of the index's chunks begin and end, int64 [num_blocks + 1]; no block is empty."""
        return block_bounds(self.index.rows, self.num_rows)

    @property
    def max_block_bytes(self) -> int:
        """Those of a chunk of the index, and of the rest of its last line."""
        return INDEX_BLOCK_BYTES

    @property
    def block_bytes(self) -> int:
        """What one read should ask for."""
        return self.reader.block_bytes

    def rows(
        self, ranges: Iterable[Range], readers: DaemonPool, *, block_bytes: int | None = None, num_ahead: int = 1
    ) -> ParsedRows:
        """Returns the rows of some ranges, which are parsed as they are asked for."""
        return ParsedRows(self, ranges, readers, block_bytes=block_bytes or self.block_bytes, num_ahead=num_ahead)

    def line_of(self, row: int) -> int:
        """Returns the physical line, from 1, of a row."""
        return self.index.line_number(self.reader, self.row_offset(row))

    def check_unchanged(self) -> None:
        """Raises FileChanged if the file is no longer as it was when it was opened."""
        check_unchanged(self.info)

    def targets_only(self) -> Source:
        """Returns the same rows with the targets as their only columns."""
        return replace(self, feature_names=(), layout=make_layout(self.header, self.target_names))

    def how_read(self) -> Mapping[str, Any]:
        """Tells where rows begin, what delimits fields, and which field becomes which column."""
        return {
            "rows_start": self.header.rows_start,
            "delimiter": self.header.delimiter,
            "take": self.layout.take.tolist(),
        }

    def load_finding(self, cache_dir: Path, name: str) -> bytes | None:
        """Returns what was kept of this very file under a name, or None."""
        return load_beside(cache_dir, self.info, self.header, name)

    def keep_finding(self, cache_dir: Path, name: str, content: bytes) -> None:
        """Keeps what was found out about the file, with its index."""
        keep_beside(cache_dir, self.info, self.header, name, content)

    def row_offset(self, row: int) -> int:
        """Returns the offset from which a row is parsed; the file's size for `row == num_rows`."""
        return self.index.locate(self.reader, row)

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self.reader.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def choose_columns(
    header: Header, features: Sequence[str] | None, targets: Sequence[str] | None, *, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the feature and target columns: each once in the file, none chosen twice, at least one of each.

    Columns without a name are not features by default: most are an index, or come from a delimiter at the line's end.
    """
    names = header.names
    if targets is None and not names[-1] and len(names) > 1:
        raise UsageError(
            f"{where}: the last column has no name, as where each line ends in '{header.delimiter}'; "
            "name the target with --targets"
        )
    chosen_targets = tuple(targets) if targets is not None else names[-1:]
    others = [name for name in names if name and name not in chosen_targets]
    chosen_features = tuple(features) if features is not None else tuple(others)
    chosen = chosen_features + chosen_targets
    counts = Counter(names)
    for name in chosen:
        if not counts[name]:
            hint = _close_name(name, names) or _other_delimiter(header)
            raise UsageError(f"{where}: has no column '{name}'; its columns are {listed(names)}{hint}")
        if counts[name] > 1:
            raise DataError(
                f"{where}, line {header.line}: column '{name}' is named more than once; choose others with --features "
                "and --targets, or give each its own name"
            )
    if repeated := [name for name, count in Counter(chosen).items() if count > 1]:
        raise UsageError(f"{where}: column '{repeated[0]}' is chosen twice; a column is one feature or one target")
    if not chosen_features or not chosen_targets:
        missing = "target" if chosen_features else "feature"
        raise UsageError(
            f"{where}: no {missing} column is left; its columns are {listed(names)}{_other_delimiter(header)}"
        )
    return chosen_features, chosen_targets


def remarks(header: Header, mode: HeaderMode, features: Sequence[str] | None, targets: Sequence[str]) -> list[str]:
    """Returns what a user should know about how a file's columns were interpreted, one sentence each."""
    found = []
    if not header.has_header and mode == "auto":
        found.append("No header: the first line was taken as a row; the columns are called 0, 1, …")
    unnamed = [str(column + 1) for column, name in enumerate(header.names) if not name]
    if unnamed and not features and "" not in targets:
        index = " (an index, as pandas writes it?)" if not header.names[0] else ""
        number = f"Column {unnamed[0]} has" if len(unnamed) == 1 else f"Columns {listed(unnamed)} have"
        found.append(f"{number} no name{index}: left out")
    return found


def make_layout(header: Header, columns: Sequence[str]) -> Layout:
    """Returns the layout that turns a row's fields into the chosen columns, in the order in which they were chosen."""
    column_of = {name: column for column, name in enumerate(columns)}
    take = np.array([column_of.get(name, -1) for name in header.names], np.int32)
    return Layout(len(header.names), take, len(columns), ord(header.delimiter))


def listed(names: Sequence[str], most: int = MAX_LISTED) -> str:
    """Returns `a, b, c`; if there are more than `most`, the first ones and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _close_name(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _other_delimiter(header: Header) -> str:
    """Returns what to do if the only field of a line looks like several with another delimiter, else an empty text."""
    if len(header.names) > 1:
        return ""
    (name,) = header.names
    found = max(DELIMITERS, key=name.count)
    return f"; if '{_typed(found)}' delimits the fields, add --delimiter '{_typed(found)}'" if found in name else ""


def _typed(delimiter: str) -> str:
    return "\\t" if delimiter == "\t" else delimiter
