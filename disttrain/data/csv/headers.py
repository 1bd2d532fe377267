"""Opens the files of a dataset: reads their headers, and checks that these agree."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from disttrain.activity import activity
from disttrain.data.csv.dialect import PLAIN, Dialect
from disttrain.data.csv.first_lines import NoLines
from disttrain.data.csv.header import Header, HeaderMode, read_header
from disttrain.data.csv.sniff import DELIMITERS
from disttrain.data.csv.text import CsvFile, CsvText
from disttrain.errors import DataError
from disttrain.storage.base import PATIENCE, PATIENCE_AGAIN, Patience, Reader
from disttrain.storage.listing import list_files
from disttrain.storage.open import open_content

_AT_ONCE = 16  # files whose headers are read at the same time


@dataclass(frozen=True)
class HowRead:
    """How the files of a dataset are read.

    Attributes:
        kept_in: a directory of a local disk for what compressed and converted files need.
        mode: whether the files have header lines.
        dialect: how they are written.
        finds_delimiter: finds the dialect's delimiter by the first file's first lines.
        by_name: lets columns stand in any order, and files have more of them than the first one.
        encoding: of their text, by Python's name.
        patience: with stores.
    """

    kept_in: Path
    mode: HeaderMode = "auto"
    dialect: Dialect = PLAIN
    finds_delimiter: bool = True
    by_name: bool = False
    encoding: str = "utf-8"
    patience: Patience = PATIENCE

    def open(self, url: str) -> Reader:
        """Opens the text that a file holds, in UTF-8."""
        return open_content(url, self.kept_in, encoding=self.encoding, patience=self.patience)

    def header(self, reader: Reader) -> Header:
        """Reads the header of an open file."""
        return read_header(reader, mode=self.mode, dialect=self.dialect, finds_delimiter=self.finds_delimiter)


def read_text(places: Sequence[str], how: HowRead) -> CsvText:
    """Opens paths, URLs, patterns or directories as one text, the files in the order of `list_files`.

    Raises:
        UsageError: for a file that cannot be read.
        DataError: for a header line that is none, and if the files' headers differ.
    """
    urls = list_files(places)
    if len(urls) == 1:
        return open_one(urls[0], how)
    first = read_first(urls, how)
    return join_text(label_of(places, urls), [first, *read_others(urls, first, how)], how)


def label_of(places: Sequence[str], urls: Sequence[str]) -> str:
    """Returns what messages call several files together."""
    if len(places) == 1:
        return places[0]
    return f"{urls[0]} and {'1 more file' if len(urls) == 2 else f'{len(urls) - 1:,} more files'}"


def open_one(url: str, how: HowRead) -> CsvText:
    """Opens the text of a single file."""
    reader = how.open(url)
    try:
        return CsvText.of_one(reader, how.header(reader))
    except BaseException:
        reader.close()
        raise


def read_first(urls: Sequence[str], how: HowRead) -> CsvFile:
    """Reads the header of the first file that is not empty; with `auto`, it decides whether all files have headers."""
    for url in urls:
        with how.open(url) as reader, nullcontext() if url == urls[-1] else suppress(NoLines):
            return CsvFile(reader.info, how.header(reader))
    raise AssertionError("the last file is read, or an error")


def read_others(urls: Sequence[str], first: CsvFile, how: HowRead) -> list[CsvFile]:
    """Reads the headers of files, several at a time, and checks that they agree with the first one's.

    The first one itself and empty files, as programs that write in parallel leave some, are left out.

    Raises:
        DataError: for the first header that differs, which says where.
    """
    if not urls:
        return []
    with (
        activity("reading the headers of {} files", len(urls), waits_for_threads=True),
        ThreadPoolExecutor(min(_AT_ONCE, len(urls)), "headers") as pool,
    ):
        found = pool.map(lambda url: _read_other(url, first, how), urls)
        return [file for file in found if file is not None]


def _read_other(url: str, first: CsvFile, how: HowRead) -> CsvFile | None:
    if url == first.info.url:
        return None
    with how.open(url) as reader:
        mode: HeaderMode = "yes" if first.header.has_header else "no"
        try:
            header = read_header(reader, mode=mode, dialect=first.header.dialect)
        except NoLines:
            return None
        columns = _columns_by_name(header, url, first) if how.by_name else None
        if columns is None:
            _check_same(header, url, first)
        return CsvFile(reader.info, header, columns)


def _columns_by_name(header: Header, url: str, first: CsvFile) -> tuple[int, ...] | None:
    """Returns the first file's column for each field, or None if both headers are the same; DataError if one lacks."""
    known = first.header.names
    if header.names == known or not header.has_header:
        return None
    for name in known:
        if (count := header.names.count(name)) != 1 and name:
            what = f"has no column '{name}'" if not count else f"names column '{name}' more than once"
            raise DataError(f"{url}, line {header.line}: {what}, which {first.info.url} has; all files need it once")
    return tuple(known.index(name) if name in known else -1 for name in header.names)


def _check_same(header: Header, url: str, first: CsvFile) -> None:
    """Raises DataError unless a header names the same columns in the same order as the first file's."""
    known, where = first.header.names, f"{url}, line {header.line}"
    if header.names == known:
        return
    if len(header.names) != len(known):
        raise DataError(
            f"{where}: has {_counted(header)}, but {first.info.url} has {_counted(first.header)}; "
            f"{_remedy(header, first.header)}"
        )
    column = next(number for number, names in enumerate(zip(header.names, known, strict=True)) if len(set(names)) > 1)
    remedy = "all files need the same header line"
    if sorted(header.names) == sorted(known):
        remedy = "the same columns stand in another order: add --by-name"
    raise DataError(
        f"{where}: column {column + 1} is '{header.names[column]}', but '{known[column]}' in {first.info.url}; {remedy}"
    )


def _counted(header: Header) -> str:
    return "1 column" if len(header.names) == 1 else f"{len(header.names):,} columns"


def _remedy(header: Header, known: Header) -> str:
    """Returns what may help if a file has more columns than another: of one column, it may be delimited otherwise."""
    for one, delimiter in ((header, known.dialect.shown), (known, header.dialect.shown)):
        others = [character for character in DELIMITERS if len(one.names) == 1 and character in one.names[0]]
        if others:
            shown = Dialect(others[0]).shown
            return (
                f"one seems to be delimited by '{shown}', the other by '{delimiter}'; all files need the same delimiter"
            )
    return "all files need the same columns; if one is no data, name a pattern, such as 'data/*.csv'"


def join_text(label: str, files: Sequence[CsvFile], how: HowRead) -> CsvText:
    """Returns the text of files whose headers agree; of one file if the others were empty."""
    if len(files) > 1:
        seen = replace(how, patience=replace(how.patience, attempts=PATIENCE_AGAIN.attempts))
        return CsvText.of_several(label, files, seen.open)
    return CsvText.of_one(how.open(files[0].info.url), files[0].header)
