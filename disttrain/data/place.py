"""Where a row stands: a file and a line."""

from __future__ import annotations

from dataclasses import dataclass

from disttrain.errors import redacted


@dataclass(frozen=True)
class Place:
    """A file, by the path or URL that names it, and a physical line of it, from 1."""

    url: str
    line: int

    def within(self, other: Place) -> str:
        """Returns how a message names it after it has named another place: its line alone if that is of one file."""
        return f"line {self.line}" if self.url == other.url else str(self)

    def __str__(self) -> str:
        return f"{redacted(self.url)}, line {self.line}"
