"""The first line of a CSV: whether it is a header, the columns' names, and where the rows begin."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from disttrain.data.csv.dialect import PLAIN, Dialect
from disttrain.data.csv.first_lines import FirstLine, first_line, split_line
from disttrain.data.csv.sniff import with_delimiter
from disttrain.errors import DataError
from disttrain.storage.base import Reader

HeaderMode = Literal["auto", "yes", "no"]

APART = 10  # a name such as a year must be this many times a column's largest number away from the column
_WHOLE = re.compile(r"[+-]?\d{1,15}")
_SAY_WHICH = "say which with --header yes or --header no"


@dataclass(frozen=True)
class Header:
    """A CSV's columns, and the number of the line that names them or, without a header, is the first row.

    `rows_start` is the offset of the first byte after the byte-order mark, lines that are skipped and the header line;
    `first_line` is the number of the line there.
    """

    names: tuple[str, ...]
    has_header: bool
    rows_start: int
    dialect: Dialect = PLAIN
    line: int = field(default=1, compare=False)
    first_line: int = field(default=2, compare=False)

    @property
    def delimiter(self) -> str:
        """What stands between two fields."""
        return self.dialect.delimiter

    @property
    def blanks(self) -> bytes:
        """The bytes that a blank line may have before its line feed."""
        return self.dialect.blanks


def read_header(
    reader: Reader, *, mode: HeaderMode = "auto", dialect: Dialect = PLAIN, finds_delimiter: bool = False
) -> Header:
    """Reads the first line that is no blank one, and decides whether it is a header or a row.

    With `auto`, a line of numbers (Python's float grammar; empty fields do not count) is a row, and the columns are
    called "0", "1" and so on. A line without any number is the header. A mixed line raises a DataError, and so does a
    line of numbers that looks like column names. Names may be quoted or missing; the second column named `x` is called
    `x.1`, as pandas does.

    Args:
        reader: the file.
        mode: whether the line is a header.
        dialect: how the file is written.
        finds_delimiter: finds the dialect's delimiter.

    Raises:
        DataError: for an empty file and for a line that is not CSV.
        UsageError: for another kind of file, and for a delimiter that cannot be found.
    """
    line = first_line(reader, dialect)
    where = f"{reader.info.url}, line {line.number}"
    found = line.dialect if finds_delimiter else dialect
    if finds_delimiter and found == dialect:
        found = with_delimiter(dialect, [line.text, *line.followers], where)
    fields = split_line(line.text, found, where)
    _refuse_comment(line, fields, found, where)
    if not _is_header(line, fields, mode, found, where):
        names = tuple(map(str, range(len(fields))))
        return Header(names, False, line.content_start, found, line.number, line.content_line)
    after = line.number + line.text.count(b"\n")
    return Header(_unique(fields), True, line.start + len(line.text), found, line.number, after)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names with `.1`, `.2` after those that were there before; a missing name stays empty."""
    unique: list[str] = []
    for name in names:
        numbered = (f"{name}.{number}" for number in itertools.count(1))
        unique.append(
            name if not name or name not in unique else next(n for n in numbered if n not in (*names, *unique))
        )
    return tuple(unique)


def _refuse_comment(line: FirstLine, fields: Sequence[str], dialect: Dialect, where: str) -> None:
    """Raises DataError for a first line that begins with '#', if the next other one has another number of fields."""
    if not line.text.lstrip().startswith(b"#"):
        return
    other = next((text for text in line.followers if not text.lstrip().startswith(b"#")), None)
    if other is not None and len(split_line(other, dialect, where)) != len(fields):
        raise DataError(f"{where}: begins with '#'; if such lines are comments, add --comment '#'")


def _is_header(line: FirstLine, fields: Sequence[str], mode: HeaderMode, dialect: Dialect, where: str) -> bool:
    if mode != "auto":
        return mode == "yes"
    numbers = [field for field in fields if _is_number(field, dialect)]
    names = [field for field in fields if field and not _is_number(field, dialect)]
    if bool(numbers) == bool(names):
        found = f"holds the number '{numbers[0]}' and the text '{names[0]}'" if names else "has only empty fields"
        raise DataError(f"{where}: {found}: it may be a header or a row; {_SAY_WHICH}")
    if numbers and (sign := _sign_of_names(line, fields, dialect)):
        raise DataError(f"{where}: holds {sign}: it may name the columns or be a row; {_SAY_WHICH}")
    return bool(names)


def _sign_of_names(line: FirstLine, fields: Sequence[str], dialect: Dialect) -> str:
    """Returns what makes a line of numbers look like column names, unlike the lines after it; empty if nothing does.

    Column names are numbers if, for example, a table was written without names (0, 1, 2, …) or has a column per year.
    """
    followers = line.followers
    if len(fields) < 2 or not followers or line.text.strip() in (text.strip() for text in followers):
        return ""
    if b'"' in line.text and not any(b'"' in text for text in followers):
        return "quoted numbers, unlike the lines after it"
    first = _whole_numbers(fields)
    if first is None or (step := _spacing(first)) is None:
        return ""
    if first == list(range(len(first))):
        return f"the numbers 0 to {len(first) - 1}"
    delimiter = None if dialect.runs else dialect.delimiter
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


def _is_number(field: str, dialect: Dialect) -> bool:
    text = field.replace(dialect.thousands, "") if dialect.thousands else field
    try:
        float(text.replace(dialect.decimal, "."))
    except ValueError:
        return False
    return True
