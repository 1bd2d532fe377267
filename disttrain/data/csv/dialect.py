"""How a CSV is written: what delimits fields, how numbers look, which lines are no rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from disttrain.errors import UsageError


@dataclass(frozen=True)
class Dialect:
    """A way to write CSV.

    Attributes:
        delimiter: the character between two fields; if `runs`, any number of spaces and tabs delimits them, and this is
            a space.
        decimal: what stands before a number's fraction, '.' or ','.
        thousands: what stands between a number's groups of three digits, if anything does.
        comment: what begins a line that is no row, if anything does.
        skip_lines: how many lines at a file's beginning belong to something else.
        quoted_newlines: whether a line break may stand within quotes.
    """

    delimiter: str = ","
    runs: bool = False
    decimal: str = "."
    thousands: str | None = None
    comment: str | None = None
    skip_lines: int = 0
    quoted_newlines: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError for what cannot delimit."""
        is_one = len(self.delimiter) == 1 and self.delimiter.isascii() and not self.delimiter.isalnum()
        if not is_one or self.delimiter in "\"'\n\r+-.":
            raise UsageError(f"delimiter {self.delimiter!r}: expected one character such as ',' ';' '|' or a tab")

    @property
    def is_plain(self) -> bool:
        """Whether lines are read as they are: a row each, with numbers such as 1234.5, delimited by one character."""
        return self.has_plain_lines and self.decimal == "." and self.thousands is None

    @property
    def has_plain_lines(self) -> bool:
        """Whether every line is a row that begins with its first byte that is no blank."""
        return not (self.runs or self.comment or self.quoted_newlines)

    @property
    def blanks(self) -> bytes:
        """The bytes that a blank line may have before its line feed."""
        return b" \t\r" if self.runs else b" \t\r".replace(self.delimiter.encode(), b"")

    @property
    def codes(self) -> npt.NDArray[np.int64]:
        """What the compiled loops need, int64 [6]: four bytes, -1 where there is none, and two switches."""
        characters = (self.delimiter, self.decimal, self.thousands, self.comment)
        return np.array([*(ord(one) if one else -1 for one in characters), self.runs, self.quoted_newlines], np.int64)

    @property
    def shown(self) -> str:
        """The delimiter as a user types it."""
        return "blanks" if self.runs else {"\t": "\\t"}.get(self.delimiter, self.delimiter)


PLAIN = Dialect()
