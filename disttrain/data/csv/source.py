"""A source of rows: an open file with its header, its index and the columns chosen from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from disttrain.data.csv.columns import choose_columns, make_layout
from disttrain.data.csv.encoded_parser import EncodedParser, Encoding
from disttrain.data.csv.header import Header, HeaderMode, read_header
from disttrain.data.csv.index import CHUNK_BYTES, Index, index_file, keep_beside, load_beside
from disttrain.data.csv.parsed_rows import ParsedRows
from disttrain.data.csv.parser import Layout, PlainParser, RowParser
from disttrain.data.digit_losses import DigitLosses
from disttrain.data.ranges import Range
from disttrain.data.row_source import Int64s
from disttrain.data.shuffle import block_bounds
from disttrain.errors import DataError
from disttrain.storage.base import FileInfo, Reader
from disttrain.storage.open import check_unchanged, open_reader
from disttrain.threads import DaemonPool

if TYPE_CHECKING:
    from disttrain.data.table.columns import Table

INDEX_BLOCK_BYTES = CHUNK_BYTES + (64 << 10)


@dataclass(frozen=True, eq=False)
class OpenCsv:
    """An open CSV with the columns chosen from it, before its rows are indexed."""

    reader: Reader
    header: Header
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    weight: str | None = None

    @classmethod
    def open(
        cls,
        url: str,
        *,
        features: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        weight: str | None = None,
        header: HeaderMode = "auto",
        delimiter: str = ",",
    ) -> OpenCsv:
        """Opens a path or URL and chooses its columns; raises what `Source.open` raises, except for a lack of rows."""
        reader = open_reader(url)
        try:
            found = read_header(reader, mode=header, delimiter=delimiter)
            return cls(reader, found, *choose_columns(found, features, targets, weight, where=url), weight)
        except BaseException:
            reader.close()
            raise

    @property
    def column_names(self) -> tuple[str, ...]:
        """The features, the targets, and the weight if there is one."""
        return self.feature_names + self.target_names + (() if self.weight is None else (self.weight,))

    @property
    def layout(self) -> Layout:
        """How the chosen columns are parsed as plain numbers."""
        return make_layout(self.header, self.column_names)

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
    encoding: Encoding | None = None

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
        """Columns of a streamed row: features, targets and, where rows have weights, the weight."""
        return self.layout.num_columns if self.encoding is None else self.encoding.table.num_slots

    @property
    def table(self) -> Table | None:
        """What is done to each column; None where all become float32 as they are."""
        return None if self.encoding is None else self.encoding.table

    @property
    def chosen_features(self) -> tuple[str, ...]:
        """The file's columns that the features are made of."""
        return self.feature_names if self.table is None else tuple(one.name for one in self.table.features)

    @property
    def chosen_targets(self) -> tuple[str, ...]:
        """The file's columns that the targets are made of."""
        return self.target_names if self.table is None else tuple(one.name for one in self.table.targets)

    @property
    def is_weighted(self) -> bool:
        """Whether a row's last column is its weight."""
        return self.encoding is not None and self.encoding.table.is_weighted

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

    def rows(self, ranges: Iterable[Range], readers: DaemonPool, *, block_bytes: int, num_ahead: int = 1) -> ParsedRows:
        """Returns the rows of some ranges, which are parsed as they are asked for."""
        return ParsedRows(self, ranges, readers, block_bytes=block_bytes, num_ahead=num_ahead)

    def line_of(self, row: int) -> int:
        """Returns the physical line, from 1, of a row."""
        return self.index.line_number(self.reader, self.row_offset(row))

    def check_unchanged(self) -> None:
        """Raises FileChanged if the file is no longer as it was when it was opened."""
        check_unchanged(self.info)

    def targets_only(self) -> Source:
        """Returns the same rows with the targets as their only columns."""
        if self.encoding is not None:
            return replace(self, feature_names=(), encoding=self.encoding.targets_only())
        return replace(self, feature_names=(), layout=make_layout(self.header, self.target_names))

    def how_read(self) -> Mapping[str, Any]:
        """Tells where rows begin, what delimits fields, which field becomes which column, and how."""
        how = {"rows_start": self.header.rows_start, "delimiter": self.header.delimiter}
        if self.encoding is None:
            return {**how, "take": self.layout.take.tolist()}
        return {**how, "take": self.encoding.take.tolist(), "encoding": self.encoding.table.digest}

    def row_parser(self) -> RowParser:
        """Returns what parses the rows, for one thread."""
        return PlainParser(self.layout) if self.encoding is None else EncodedParser(self.encoding)

    def encoded(self, table: Table) -> Source:
        """Returns the same rows, encoded as a table says, whose columns the file has by name."""
        encoding = Encoding.of(self.header, table)
        return replace(self, feature_names=table.feature_slots, target_names=table.target_slots, encoding=encoding)

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
