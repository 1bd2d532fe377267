"""A source of rows: an open file with its header, its index and the columns chosen from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from disttrain.data.csv.columns import make_layout
from disttrain.data.csv.encoded_parser import EncodedParser, Encoding
from disttrain.data.csv.headers import HowRead, read_text
from disttrain.data.csv.kept_index import index_text, keep_beside, load_beside
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.csv.parsed_rows import ParsedRows
from disttrain.data.csv.parser import PlainParser
from disttrain.data.csv.text import CHUNK_BYTES, CsvText
from disttrain.data.csv.weighed_parser import WeighedParser
from disttrain.data.digit_losses import DigitLosses
from disttrain.data.ranges import Range
from disttrain.data.shuffle import block_bounds

if TYPE_CHECKING:
    from disttrain.data.bad_rows import BadRows
    from disttrain.data.csv.dialect import Dialect
    from disttrain.data.csv.header import Header, HeaderMode
    from disttrain.data.csv.index import Index
    from disttrain.data.csv.parser import Layout, RowParser
    from disttrain.data.place import Place
    from disttrain.data.row_source import Int64s
    from disttrain.data.table.columns import Table
    from disttrain.storage.base import FileInfo
    from disttrain.threads import DaemonPool

INDEX_BLOCK_BYTES = CHUNK_BYTES + (64 << 10)


@dataclass(frozen=True, eq=False)
class Source:
    """An open dataset with its index and chosen columns; a context manager, whose `close` may be called twice.

    The rows' columns are `feature_names`, then `target_names`, whatever their order in the files.
    """

    text: CsvText
    index: Index
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    layout: Layout
    digit_losses: DigitLosses
    encoding: Encoding | None = None
    bad_rows: BadRows | None = None

    @classmethod
    def of(cls, opened: OpenCsv, index: Index, *, is_strict: bool = False, bad_rows: BadRows | None = None) -> Source:
        """Returns the rows of an open dataset; DataError if it has none.

        `is_strict` is the `strict` of `open`; `bad_rows` takes up rows that cannot be read, which then weigh nothing.
        """
        index.check_has_rows(opened.text.info.url)
        layout = make_layout(opened.header, opened.feature_names + opened.target_names)
        losses = DigitLosses(is_strict=is_strict)
        return cls(opened.text, index, opened.feature_names, opened.target_names, layout, losses, bad_rows=bad_rows)

    @classmethod
    def open(
        cls,
        urls: str | Sequence[str],
        *,
        features: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        header: HeaderMode = "auto",
        dialect: Dialect | None = None,
        by_name: bool = False,
        cache_dir: Path,
        num_threads: int = 1,
        strict: bool = False,
    ) -> Source:
        """Opens paths, URLs, patterns or directories as one dataset, chooses its columns and loads or makes its index.

        The default target is the last column; the default features are all other columns that have a name. With
        `strict`, parsing a whole number that float32 rounds to another one raises a DataError. Raises UsageError for a
        file or column that does not exist, DataError for a file without rows.
        """
        how = HowRead(cache_dir, header, finds_delimiter=dialect is None, by_name=by_name)
        how = how if dialect is None else replace(how, dialect=dialect)
        text = read_text([urls] if isinstance(urls, str) else urls, how)
        opened = OpenCsv.choose(text, features=features, targets=targets)
        try:
            return cls.of(opened, index_text(text, cache_dir, num_threads=num_threads), is_strict=strict)
        except BaseException:
            opened.close()
            raise

    @property
    def url(self) -> str:
        """The path or URL as it was given; of several files, what messages call them together."""
        return self.text.info.url

    @property
    def header(self) -> Header:
        """The names of the columns, and the delimiter."""
        return self.text.header

    @property
    def files(self) -> Sequence[FileInfo]:
        """The files, in the order of their rows, as they were when they were opened."""
        return [file.info for file in self.text.files]

    @property
    def fingerprint(self) -> str:
        """What differs when the content of any file may differ."""
        return self.text.info.fingerprint

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return self.index.num_rows

    @property
    def num_columns(self) -> int:
        """Columns of a streamed row: features, targets and, where rows have weights, the weight."""
        own = self.layout.num_columns if self.encoding is None else self.encoding.table.num_slots
        return own + (self.bad_rows is not None and not self._has_weights)

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
        return self.bad_rows is not None or self._has_weights

    @property
    def _has_weights(self) -> bool:
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
        return self.text.reader.block_bytes

    def rows(self, ranges: Iterable[Range], readers: DaemonPool, *, block_bytes: int, num_ahead: int = 1) -> ParsedRows:
        """Returns the rows of some ranges, which are parsed as they are asked for."""
        return ParsedRows(self, ranges, readers, block_bytes=block_bytes, num_ahead=num_ahead)

    def place_of(self, row: int) -> Place:
        """Returns the file and the physical line of a row."""
        return self.place_at(self.row_offset(row))

    def place_at(self, offset: int) -> Place:
        """Returns the file and the physical line of a byte of a row."""
        return self.index.place(self.text, offset)

    def check_unchanged(self) -> None:
        """Raises FileChanged if a file is no longer as it was when it was opened."""
        self.text.check_unchanged()

    def targets_only(self) -> Source:
        """Returns the same rows with the targets as their only columns."""
        if self.encoding is not None:
            return replace(self, feature_names=(), encoding=self.encoding.targets_only())
        return replace(self, feature_names=(), layout=make_layout(self.header, self.target_names))

    def how_read(self) -> Mapping[str, Any]:
        """Tells where rows begin, what delimits fields, which field becomes which column, and how."""
        how: dict[str, Any] = {"rows_start": self.header.rows_start, "delimiter": self.header.delimiter}
        if self.bad_rows is not None:
            how["bad_rows"] = "skipped"
        if not self.header.dialect.is_plain:
            how["dialect"] = asdict(self.header.dialect)
        if self.encoding is None:
            return {**how, "take": self.layout.take.tolist()}
        return {**how, "take": self.encoding.take.tolist(), "encoding": self.encoding.table.digest}

    def row_parser(self, file: int = 0) -> RowParser:
        """Returns what parses a file's rows, for one thread."""
        own = self.text.files[file]
        parser: RowParser
        if self.encoding is None:
            parser = PlainParser(self.layout.of_fields(own.take(self.layout.take)))
        else:
            parser = EncodedParser(self.encoding.of_fields(own.take(self.encoding.take)))
        return parser if self.bad_rows is None or self._has_weights else WeighedParser(parser)

    def split_by_order(self, rows: Range) -> Iterator[Range]:
        """Yields the parts of a range whose files have their columns in the same order."""
        has_quotes = self.header.dialect.quoted_newlines  # of which an open one ends with its file
        if not self.text.has_orders and not (has_quotes and len(self.text.files) > 1):
            if len(rows):
                yield rows
            return
        firsts = np.append(self.index.rows, self.num_rows)[self.text.first_chunks]  # each file's first row
        columns = [file.columns for file in self.text.files]
        cuts = [int(firsts[n]) for n in range(1, len(columns)) if has_quotes or columns[n] != columns[n - 1]]
        bounds = [rows.start, *(cut for cut in cuts if rows.start < cut < rows.stop), rows.stop]
        yield from (Range(start, stop) for start, stop in itertools.pairwise(bounds) if start < stop)

    def encoded(self, table: Table) -> Source:
        """Returns the same rows, encoded as a table says, whose columns the file has by name."""
        encoding = Encoding.of(self.header, table)
        return replace(self, feature_names=table.feature_slots, target_names=table.target_slots, encoding=encoding)

    def load_finding(self, cache_dir: Path, name: str) -> bytes | None:
        """Returns what was kept of these very files under a name, or None."""
        return load_beside(cache_dir, self.text, name)

    def keep_finding(self, cache_dir: Path, name: str, content: bytes) -> None:
        """Keeps what was found out about the files, with their index."""
        keep_beside(cache_dir, self.text, name, content)

    def row_offset(self, row: int) -> int:
        """Returns the offset from which a row is parsed; the text's size for `row == num_rows`."""
        return self.index.locate(self.text.reader, row)

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        self.text.reader.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
