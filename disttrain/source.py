"""What is streamed: an open file with its header, its index and the columns chosen from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from disttrain.errors import DataError, UsageError
from disttrain.header import Header, Mode, read_header
from disttrain.index import Index, index_file
from disttrain.parsing import Layout
from disttrain.reader import FileInfo, Reader
from disttrain.storage import open_reader

MAX_LISTED = 50  # columns that a message names


@dataclass(frozen=True, eq=False)
class Unindexed:
    """An open CSV with the columns chosen from it, before it is known where its rows are."""

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
        header: Mode = "auto",
        delimiter: str = ",",
    ) -> Unindexed:
        """Open a path or URL and choose its columns; raises what `Source.open` raises, but for a file without rows."""
        reader = open_reader(url)
        try:
            found = read_header(reader, mode=header, delimiter=delimiter)
            return cls(reader, found, *choose_columns(found.names, features, targets, where=url))
        except BaseException:
            reader.close()
            raise

    def indexed(self, index: Index) -> Source:
        """The same with its index; DataError for a file without rows."""
        if index.num_rows == 0:
            raise DataError(f"{self.reader.info.url}: has a header line but no rows")
        layout = make_layout(self.header, self.feature_names + self.target_names)
        return Source(self.reader, self.header, index, self.feature_names, self.target_names, layout)


@dataclass(frozen=True, eq=False)
class Source:
    """An open CSV. A context manager; `close` may be called twice.

    The rows' columns are `feature_names`, then `target_names`, whatever their order in the file.
    """

    reader: Reader
    header: Header
    index: Index
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    layout: Layout

    @classmethod
    def open(
        cls,
        url: str,
        *,
        features: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        header: Mode = "auto",
        delimiter: str = ",",
        cache_dir: Path,
        num_threads: int = 1,
    ) -> Source:
        """Open a path or URL, choose its columns and load or make its index.

        The default target is the last column; the default features are all columns that are no target. Raises
        UsageError for a file or column that is not there, DataError for a file without rows.
        """
        opened = Unindexed.open(url, features=features, targets=targets, header=header, delimiter=delimiter)
        try:
            return opened.indexed(index_file(opened.reader, opened.header, cache_dir, num_threads=num_threads))
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
    def num_rows(self) -> int:
        """Rows of the whole file."""
        return self.index.num_rows

    @property
    def num_columns(self) -> int:
        """Columns of a streamed row: features and targets."""
        return self.layout.num_columns

    def row_offset(self, row: int) -> int:
        """The byte from which a row is parsed: its first above 0x20, or, where a blank delimits, its line's first."""
        offset = self.index.locate(self.reader, row)
        if self.layout.delimiter > 0x20:
            return offset
        while offset > self.header.rows_start:  # blanks before it are empty fields
            start = max(offset - 4096, self.header.rows_start)
            behind = bytearray(offset - start)
            self.reader.read_into(start, memoryview(behind))
            line_start = behind.rfind(b"\n") + 1
            offset = start + line_start
            if line_start:
                break
        return offset

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self.reader.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def choose_columns(
    names: tuple[str, ...], features: Sequence[str] | None, targets: Sequence[str] | None, *, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The feature and target columns: each in the file, none named twice, at least one of each."""
    chosen_targets = tuple(targets) if targets is not None else names[-1:]
    others = set(names) - set(chosen_targets)
    chosen_features = tuple(features) if features is not None else tuple(name for name in names if name in others)
    chosen = chosen_features + chosen_targets
    there = set(names)
    for name in chosen:
        if name not in there:
            raise UsageError(f"{where}: has no column '{name}'; its columns are {_listed(names)}")
    if repeated := [name for name, count in Counter(chosen).items() if count > 1]:
        raise UsageError(f"{where}: column '{repeated[0]}' is chosen twice; a column is one feature or one target")
    if not chosen_features or not chosen_targets:
        missing = "target" if chosen_features else "feature"
        raise UsageError(f"{where}: no {missing} column is left; its columns are {_listed(names)}")
    return chosen_features, chosen_targets


def make_layout(header: Header, columns: Sequence[str]) -> Layout:
    """How a row's fields become the chosen columns, in the order in which they were chosen."""
    place = {name: column for column, name in enumerate(columns)}
    take = np.array([place.get(name, -1) for name in header.names], np.int32)
    return Layout(len(header.names), take, len(columns), ord(header.delimiter))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
