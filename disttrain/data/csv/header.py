"""The first line of a CSV: whether it is a header, the columns' names, and where the rows begin."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from disttrain.errors import DataError, UsageError
from disttrain.storage.base import Reader

HeaderMode = Literal["auto", "yes", "no"]

FIRST_READ_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 24  # a longer first line is not that of a CSV
MAX_LINES_COMPARED = 1000  # most lines with which a first line of numbers is compared
APART = 10  # a name such as a year must be this many times a column's largest number away from the column
BOM = b"\xef\xbb\xbf"
# The first bytes of files that are often given instead of a CSV, and cannot be read as one.
FOREIGN = (
    (b"\x1f\x8b", "compressed with gzip; let its name end in .gz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; let its name end in .zst"),
    (b"\xfd7zXZ\x00", "compressed with xz; let its name end in .xz"),
    (b"BZh", "compressed with bzip2; let its name end in .bz2"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet); unpack it or save it as CSV"),
    (b"PAR1", "a Parquet file; write it out as CSV"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
)
_WHOLE = re.compile(r"[+-]?\d{1,15}")
_SAY_WHICH = "say which with --header yes or --header no"


@dataclass(frozen=True)
class Header:
    """A CSV's columns, and the number of the line that names them or, without a header, is the first row.

    `rows_start` is the offset of the first byte after the byte-order mark and the header line.
    """

    names: tuple[str, ...]
    has_header: bool
    rows_start: int
    delimiter: str = ","
    line: int = field(default=1, compare=False)

    @property
    def first_line(self) -> int:
        """The number of the line at `rows_start`."""
        return self.line + 1 if self.has_header else 1

    @property
    def blanks(self) -> bytes:
        """The bytes that a blank line may have before its line feed."""
        return _blanks(self.delimiter)


@dataclass(frozen=True)
class _Line:
    """The first line that is not blank: its bytes with the line feed, the offset of its start, its number from 1.

    `followers` are the whole lines after it that were read with it.
    """

    text: bytes
    start: int
    number: int
    followers: Sequence[bytes]


def read_header(reader: Reader, *, mode: HeaderMode = "auto", delimiter: str = ",") -> Header:
    """Reads the first line that is not blank, and decides whether it is a header or a row.

    With `auto`, a line of numbers (Python's float grammar; empty fields do not count) is a row, and the columns are
    called "0", "1" and so on. A line without any number is the header. A mixed line raises a DataError, and so does a
    line of numbers that looks like column names. Names may be quoted, missing, or the same for several columns.
    Raises DataError for an empty file and for a line that is not CSV; UsageError for an invalid delimiter and for a
    compressed file.
    """
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in "\r\n\"'+-." or delimiter.isalnum():
        raise UsageError(f"delimiter {delimiter!r}: expected one character such as ',' ';' '|' or a tab")
    start = _content_start(reader)
    line = _first_line(reader, start, delimiter)
    where = f"{reader.info.url}, line {line.number}"
    fields = split_line(line.text, delimiter, where)
    _refuse_comment(line, fields, delimiter, where)
    if not _is_header(line, fields, mode, delimiter, where):
        return Header(tuple(map(str, range(len(fields)))), False, start, delimiter, line.number)
    return Header(tuple(fields), True, line.start + len(line.text), delimiter, line.number)


def _blanks(delimiter: str) -> bytes:
    return b" \t\r".replace(delimiter.encode(), b"")


def _content_start(reader: Reader) -> int:
    """Returns the offset after a byte-order mark; UsageError for a file that cannot be read as a CSV at all."""
    first = _read(reader, 0, min(8, reader.info.size_bytes))
    for magic, what in FOREIGN:
        if first.startswith(magic):
            raise UsageError(f"{reader.info.url}: not a CSV but {what}")
    return len(BOM) if first.startswith(BOM) else 0


def _first_line(reader: Reader, start: int, delimiter: str) -> _Line:
    url, size_bytes = reader.info.url, reader.info.size_bytes
    want = FIRST_READ_BYTES
    while True:
        head = _read(reader, start, min(want, size_bytes - start))
        blank = len(head) - len(head.lstrip(_blanks(delimiter) + b"\n"))
        first = head.rfind(b"\n", 0, blank) + 1
        stop = head.find(b"\n", blank) + 1
        whole = start + len(head) == size_bytes
        if blank < len(head) and (stop or whole):
            rest = head[stop or len(head) :].split(b"\n", MAX_LINES_COMPARED)
            followers = rest if whole and len(rest) <= MAX_LINES_COMPARED else rest[:-1]
            number = head.count(b"\n", 0, first) + 1
            return _Line(head[first : stop or len(head)], start + first, number, followers)
        if whole:
            raise DataError(f"{url}: is empty, expected a header line and rows")
        if want >= MAX_LINE_BYTES:
            raise DataError(f"{url}: no line ends within the first {len(head)} bytes; expected a CSV, a row a line")
        want *= 16


def split_line(line: bytes, delimiter: str, where: str) -> list[str]:
    """Returns the fields of one line, unquoted and stripped; DataError that begins with `where` if it is not CSV."""
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    if "\r" in text or "\0" in text:
        raise DataError(f"{where}: expected lines that end in LF or CRLF, found a bare CR or NUL; convert the file")
    lines = iter([text, ""])
    fields = next(csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter != " "))
    if next(lines, None) is None:  # the second line was read as part of the first
        raise DataError(f"{where}: a quote that begins a field must end on its line; correct the line")
    return [field.strip() for field in fields]


def _refuse_comment(line: _Line, fields: Sequence[str], delimiter: str, where: str) -> None:
    """Raises DataError for a first line that begins with '#', if the next line has another number of fields."""
    if not line.text.lstrip().startswith(b"#"):
        return
    follower = next((text for text in line.followers if text.strip(_blanks(delimiter))), None)
    if follower is not None and len(split_line(follower, delimiter, where)) != len(fields):
        raise DataError(f"{where}: begins with '#', but comments are not skipped; remove such lines from the file")


def _is_header(line: _Line, fields: Sequence[str], mode: HeaderMode, delimiter: str, where: str) -> bool:
    if mode != "auto":
        return mode == "yes"
    numbers = [field for field in fields if _is_number(field)]
    names = [field for field in fields if field and not _is_number(field)]
    if bool(numbers) == bool(names):
        found = f"holds the number '{numbers[0]}' and the text '{names[0]}'" if names else "has only empty fields"
        raise DataError(f"{where}: {found}: it may be a header or a row; {_SAY_WHICH}")
    if numbers and (sign := _sign_of_names(line, fields, delimiter)):
        raise DataError(f"{where}: holds {sign}: it may name the columns or be a row; {_SAY_WHICH}")
    return bool(names)


def _sign_of_names(line: _Line, fields: Sequence[str], delimiter: str) -> str:
    """Returns what makes a line of numbers look like column names, unlike the lines after it; empty if nothing does.

    Column names are numbers if, for example, a table was written without names (0, 1, 2, …) or has a column per year.
    """
    followers = [text for text in line.followers if text.strip(_blanks(delimiter))]
    if len(fields) < 2 or not followers or line.text.strip() in (text.strip() for text in followers):
        return ""
    if b'"' in line.text and not any(b'"' in text for text in followers):
        return "quoted numbers, unlike the lines after it"
    first = _whole_numbers(fields)
    if first is None or (step := _spacing(first)) is None:
        return ""
    if first == list(range(len(first))):
        return f"the numbers 0 to {len(first) - 1}"
    rows = [_whole_numbers(text.decode("utf-8", "replace").split(delimiter)) for text in followers]
    is_alone = len(first) > 2 and all(row is None or _spacing(row) != step for row in rows)
    return f"the equally spaced numbers {first[0]}, {first[1]}, …" if is_alone or _is_apart(first, rows) else ""


def _whole_numbers(fields: Sequence[str]) -> list[int] | None:
    texts = [field.strip().strip('"') for field in fields]
    return [int(text) for text in texts] if all(map(_WHOLE.fullmatch, texts)) else None


def _spacing(numbers: Sequence[int]) -> int | None:
    """Returns the difference between each number and the next if it is always the same and not 0, else None."""
    steps = {after - before for before, after in itertools.pairwise(numbers)}
    return steps.pop() if len(steps) == 1 and 0 not in steps else None


def _is_apart(first: Sequence[int], rows: Sequence[Sequence[int] | None]) -> bool:
    """Returns whether each number is much further from those in its column than they are from each other and from 0."""
    columns = list(zip(*(row for row in rows if row is not None and len(row) == len(first)), strict=True))
    return bool(columns) and all(
        max(number - max(column), min(column) - number) > max(max(column) - min(column), APART * max(map(abs, column)))
        for number, column in zip(first, columns, strict=True)
    )


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
