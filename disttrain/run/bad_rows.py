"""Tells which rows a run left out: in a sentence after each epoch, and in bad-rows.csv in the run's directory."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from disttrain.config import BadRowSettings, FileSettings
from disttrain.data.bad_rows import BadRow, BadRows, BadRowsFound
from disttrain.errors import redacted
from disttrain.run.directory import BAD_ROWS

COLUMNS = ("file", "line", "cause", "text")
KINDS = {
    "fields": "with too few or too many fields",
    "text": "with a text for a number",
    "kind": "with a text for a number",
    "empty": "with nothing for a number",
    "gap": "with nothing for a number",
    "quote": "with a quote where none may be",
    "nul": "with NUL bytes",
    "label": "with an unknown label",
    "class": "with an unknown label",
    "weight": "with a weight that is none",
}


def counted(found: Sequence[BadRowsFound]) -> str:
    """Returns how many rows there are, and how many of each kind: "3 rows: 2 with a text for a number, …"."""
    counts: Counter[str] = Counter()
    for own in found:
        for kind, count in own.counts.items():
            counts[KINDS[kind]] += count
    each = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
    rows = "1 row" if counts.total() == 1 else f"{counts.total():,} rows"
    return f"{rows}: {each}"


def bad_rows_of(config: FileSettings, num_rows: int) -> BadRows | None:
    """Returns what takes up the bad rows of a dataset, if the options say that they are skipped."""
    if isinstance(config, BadRowSettings) and config.on_bad_row == "skip":
        return BadRows(num_rows, config.max_bad_fraction)
    return None


class BadRowsFile:
    """The leader's record of bad rows; each row is written once, also if an earlier process of the run wrote it."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self._path = directory / BAD_ROWS
        self._say = say
        self._known = self._written()

    def tell(self, found: Sequence[BadRowsFound]) -> None:
        """Says what all workers found in an epoch, and writes the rows that are new."""
        if not any(own.total for own in found):
            return
        self._write([row for own in found for row in own.rows])
        self._say(f"Skipped {counted(found)}; {self._path} names them")

    def _write(self, rows: Sequence[BadRow]) -> None:
        named = {(redacted(row.place.url), row.place.line): row for row in rows}
        news = {name: row for name, row in named.items() if name not in self._known}
        self._known |= news.keys()
        is_new = not self._path.exists()
        with self._path.open("a", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            if is_new:
                writer.writerow(COLUMNS)
            writer.writerows((*name, row.cause, row.text) for name, row in news.items())

    def _written(self) -> set[tuple[str, int]]:
        try:
            with self._path.open(encoding="utf-8", newline="") as stream:
                return {(row["file"], int(row["line"])) for row in csv.DictReader(stream)}
        except (OSError, ValueError, KeyError):
            return set()
