"""The first lines of a CSV: where its content begins, and the fields of a line, before anything else is known of it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from disttrain.data.csv.dialect import Dialect
from disttrain.errors import DataError, UsageError
from disttrain.storage.base import Reader

FIRST_READ_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 24  # a longer line is no row of a CSV
MAX_LINES_COMPARED = 1000  # most lines with which a first line of numbers is compared
BOM = b"\xef\xbb\xbf"
# The first bytes of files that are often given instead of a CSV, and cannot be read as one.
FOREIGN = (
    (b"\x1f\x8b", "compressed with gzip; let its name end in .gz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; let its name end in .zst"),
    (b"\xfd7zXZ\x00", "compressed with xz; let its name end in .xz"),
    (b"BZh", "compressed with bzip2; let its name end in .bz2"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet); unpack it or save it as CSV"),
    (b"PAR1", "a Parquet file; write it out as CSV"),
    (b"\xff\xfe", "UTF-16 text; add --encoding utf-16"),
    (b"\xfe\xff", "UTF-16 text; add --encoding utf-16"),
)
_SEPARATOR = re.compile(rb"\"?sep=([^\w\"'+.\r\n-])\"?\s*", re.IGNORECASE)
_FIELD_BETWEEN_BLANKS = re.compile(r'"(?:[^"]|"")*"|\S+')


class NoLines(DataError):
    """A file has only blank lines and comments, if any."""


@dataclass(frozen=True)
class FirstLine:
    """The first line that is neither blank nor a comment: with the line feed, its offset, and its number from 1.

    `followers` are the whole lines after it that were read with it, without blank lines and comments. `content_start`
    and `content_line` tell where rows begin if it is one: after a byte-order mark and lines that are skipped. `dialect`
    is the one that was asked for, with the delimiter of a line such as `sep=;`.
    """

    text: bytes
    start: int
    number: int
    followers: Sequence[bytes]
    content_start: int
    content_line: int
    dialect: Dialect


def first_line(reader: Reader, dialect: Dialect) -> FirstLine:
    """Finds the first line.

    Raises:
        NoLines: for a file without any.
        DataError: for one without line ends.
        UsageError: for a file that cannot be read as a CSV at all.
    """
    url, size_bytes = reader.info.url, reader.info.size_bytes
    start = _text_start(reader)
    want = FIRST_READ_BYTES
    while True:
        head = _read(reader, start, min(want, size_bytes - start))
        whole = start + len(head) == size_bytes
        found = _first_of(head, start, dialect, whole=whole)
        if found is not None:
            return found
        if whole:
            raise NoLines(f"{url}: is empty, expected a header line and rows")
        if want >= MAX_LINE_BYTES:
            raise DataError(f"{url}: no line ends within the first {len(head)} bytes; expected a CSV, a row a line")
        want *= 16


def split_line(line: bytes, dialect: Dialect, where: str) -> list[str]:
    """Returns the fields of one line, unquoted and stripped; DataError that begins with `where` if it is not CSV."""
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        remedy = "save the file as UTF-8, or name its encoding, as in --encoding latin-1"
        raise DataError(f"{where}: is not UTF-8 text ({error.reason}); {remedy}") from error
    if "\0" in text or re.search(r"\r(?!\n)", text):
        raise DataError(f"{where}: expected lines that end in LF or CRLF, found a bare CR or NUL; convert the file")
    if dialect.runs:
        found = _FIELD_BETWEEN_BLANKS.findall(text)
        return [one[1:-1].replace('""', '"') if one[:1] == '"' and len(one) > 1 else one for one in found]
    lines = iter([*io.StringIO(text, newline=""), ""])
    rows = csv.reader(lines, delimiter=dialect.delimiter, skipinitialspace=dialect.delimiter != " ")
    try:
        fields = next(rows)
    except csv.Error as error:
        raise DataError(f"{where}: is no line of a CSV: {error}") from error
    if next(lines, None) is None:  # the line after it was read as part of it
        raise DataError(f"{where}: a quote that begins a field must end on its line; correct the line{_hint(dialect)}")
    return [field.strip() for field in fields]


def _hint(dialect: Dialect) -> str:
    return "" if dialect.quoted_newlines else ", or add --quoted-newlines if fields hold line breaks"


def _text_start(reader: Reader) -> int:
    """Returns the offset after a byte-order mark; UsageError for a file that cannot be read as a CSV at all."""
    first = _read(reader, 0, min(8, reader.info.size_bytes))
    for magic, what in FOREIGN:
        if first.startswith(magic):
            raise UsageError(f"{reader.info.url}: not a CSV but {what}")
    return len(BOM) if first.startswith(BOM) else 0


def _first_of(head: bytes, start: int, dialect: Dialect, *, whole: bool) -> FirstLine | None:
    """Finds the first line in the bytes from `start` on; None if they do not hold all of it."""
    content = (start, 1)  # offset and number of the line at which rows may begin
    lines = _lines(head, dialect, whole=whole)
    for position, number, line in lines:
        after = (start + position + len(line), number + line.count(b"\n"))
        if number <= dialect.skip_lines:
            content = after
            continue
        if _is_no_row(line, dialect):
            continue
        if match := _SEPARATOR.fullmatch(line):
            dialect, content = replace(dialect, delimiter=match[1].decode("latin-1"), runs=False), after
            continue
        rest = (text for _, _, text in lines if not _is_no_row(text, dialect))
        followers = [text for text, _ in zip(rest, range(MAX_LINES_COMPARED), strict=False)]
        return FirstLine(line, start + position, number, followers, *content, dialect)
    return None


def _lines(head: bytes, dialect: Dialect, *, whole: bool) -> Iterator[tuple[int, int, bytes]]:
    """Yields (position, number, text with its line feed) of each line; the last one only if it must be `whole`."""
    position, number = 0, 1
    while position < len(head):
        stop = head.find(b"\n", position) + 1
        if dialect.quoted_newlines and number > dialect.skip_lines and not _is_no_row(head[position:stop], dialect):
            stop = _record_stop(head, position, dialect)
        if not stop and not whole:
            return
        stop = stop or len(head)
        yield position, number, head[position:stop]
        number += head.count(b"\n", position, stop)
        position = stop


def _record_stop(head: bytes, position: int, dialect: Dialect) -> int:
    """Returns where the record at a position ends, after its line feed; 0 if it does not end."""
    between = b" \t" if dialect.runs else dialect.delimiter.encode()
    special, field = re.compile(rb'[\n"%b]' % re.escape(between)), position
    while match := special.search(head, position):
        position = match.end()
        if match[0] == b"\n":
            return position
        if match[0] != b'"':
            field = position
        elif not head[field : match.start()].strip(b" \t"):  # a quote with which the field begins
            closing = re.compile(rb'(?:[^"]|"")*"(?!")').match(head, position)
            if closing is None:
                return 0
            position = closing.end()
    return 0


def _is_no_row(line: bytes, dialect: Dialect) -> bool:
    text = line.strip(dialect.blanks + b"\n")
    return not text or (dialect.comment is not None and text.startswith(dialect.comment.encode()))


def _read(reader: Reader, offset: int, num_bytes: int) -> bytes:
    buffer = bytearray(num_bytes)
    reader.read_into(offset, memoryview(buffer))
    return bytes(buffer)
