"""The first line of a CSV: whether it is a header, the columns' names, and where the rows begin."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from disttrain.errors import DataError, UsageError
from disttrain.reader import Reader

Mode = Literal["auto", "yes", "no"]

FIRST_READ_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 24  # a first line beyond this is not a CSV's
BOM = b"\xef\xbb\xbf"
# The first bytes of files that are often named for a CSV and cannot be read as one.
FOREIGN = (
    (b"\x1f\x8b", "compressed with gzip; decompress it and name the result"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; decompress it and name the result"),
    (b"\xfd7zXZ\x00", "compressed with xz; decompress it and name the result"),
    (b"BZh", "compressed with bzip2; decompress it and name the result"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet); unpack it or save it as CSV"),
    (b"PAR1", "a Parquet file; write it out as CSV"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
)


@dataclass(frozen=True)
class Header:
    """A CSV's columns. `rows_start` is the offset of the first byte after the byte-order mark and the header line."""

    names: tuple[str, ...]
    has_header: bool
    rows_start: int
    delimiter: str = ","


@dataclass(frozen=True)
class _Line:
    """The first line that is not blank: its bytes with the line feed, where it starts, and its number from 1."""

    text: bytes
    start: int
    number: int


def read_header(reader: Reader, *, mode: Mode = "auto", delimiter: str = ",") -> Header:
    """Read the first line that is not blank.

    With `auto`, a line of numbers (Python's float grammar; empty fields are neutral) is a row, and the columns are
    called "0", "1" and so on; a line without any number is the header; a mixed one is a DataError. Names may be quoted.
    Raises DataError for an empty file and for a line that names columns twice or is no CSV; UsageError for a delimiter
    that cannot be one and for a compressed file.
    """
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in "\r\n\"'+-." or delimiter.isalnum():
        raise UsageError(f"delimiter {delimiter!r}: expected one character such as ',' ';' '|' or a tab")
    start = _content_start(reader)
    line = _first_line(reader, start)
    where = f"{reader.info.url}, line {line.number}"
    fields = _split(line.text, delimiter, where)
    if not _is_header(fields, mode, where):
        return Header(tuple(map(str, range(len(fields)))), has_header=False, rows_start=start, delimiter=delimiter)
    if repeated := [name for name, count in Counter(fields).items() if count > 1]:
        raise DataError(f"{where}: column '{repeated[0]}' is named more than once; give each column its own name")
    return Header(tuple(fields), has_header=True, rows_start=line.start + len(line.text), delimiter=delimiter)


def _content_start(reader: Reader) -> int:
    """The offset after a byte-order mark; what cannot be read as a CSV at all is refused."""
    first = _read(reader, 0, min(8, reader.info.size_bytes))
    for magic, what in FOREIGN:
        if first.startswith(magic):
            raise UsageError(f"{reader.info.url}: not a CSV but {what}")
    return len(BOM) if first.startswith(BOM) else 0


def _first_line(reader: Reader, start: int) -> _Line:
    url, size_bytes = reader.info.url, reader.info.size_bytes
    want = FIRST_READ_BYTES
    while True:
        head = _read(reader, start, min(want, size_bytes - start))
        blank = len(head) - len(head.lstrip(bytes(range(0x21))))  # blank: what the index counts as no row
        first = head.rfind(b"\n", 0, blank) + 1
        stop = head.find(b"\n", blank) + 1
        whole = start + len(head) == size_bytes
        if blank < len(head) and (stop or whole):
            return _Line(head[first : stop or len(head)], start + first, head.count(b"\n", 0, first) + 1)
        if whole:
            raise DataError(f"{url}: is empty, expected a header line and rows")
        if want >= MAX_LINE_BYTES:
            raise DataError(f"{url}: no line ends within the first {len(head)} bytes; expected a CSV, a row a line")
        want *= 16


def _split(line: bytes, delimiter: str, where: str) -> list[str]:
    """The fields of one line, unquoted and stripped."""
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    if "\r" in text or "\0" in text:
        raise DataError(f"{where}: expected lines that end in LF or CRLF, found a bare CR or NUL; convert the file")
    try:
        (fields,) = csv.reader([text], delimiter=delimiter, skipinitialspace=delimiter != " ", strict=True)
    except csv.Error as error:
        raise DataError(f"{where}: a quoted name must end on its line ({error}); correct the header") from error
    return [field.strip() for field in fields]


def _is_header(fields: Sequence[str], mode: Mode, where: str) -> bool:
    if mode != "auto":
        return mode == "yes"
    numbers = [field for field in fields if _is_number(field)]
    names = [field for field in fields if field and not _is_number(field)]
    if bool(numbers) == bool(names):
        found = f"holds the number '{numbers[0]}' and the text '{names[0]}'" if names else "has only empty fields"
        raise DataError(f"{where}: {found}: it may be a header or a row; say which with --header yes or --header no")
    return bool(names)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _read(reader: Reader, offset: int, num_bytes: int) -> bytes:
    buffer = bytearray(num_bytes)
    reader.read_into(offset, memoryview(buffer))
    return bytes(buffer)
