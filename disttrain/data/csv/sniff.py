"""Finds what delimits a CSV's fields, by its first lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.first_lines import split_line
from disttrain.errors import DataError, UsageError

DELIMITERS = (",", ";", "\t", "|")
RARE_DELIMITERS = (":", "~", "^", "/")  # not looked for, as texts hold them, but hinted at
MAX_LINES = 100
USUAL = 0.9  # of the lines that must have the same number of fields: the others may be faulty rows
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_WITH_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)


def with_delimiter(dialect: Dialect, lines: Sequence[bytes], where: str) -> Dialect:
    """Returns a dialect with the delimiter of some lines, the first of which may name the columns.

    It is one of `,` `;` tab and `|` that gives nearly all lines the same number of fields, more than one; among several
    the one by which most fields are numbers; else a run of blanks between numbers; else a comma, of a single column.

    Raises:
        UsageError: if two serve equally well, and if numbers have a decimal comma, which has to be said.
    """
    lines = lines[:MAX_LINES]
    scored: dict[str, float] = {}
    for delimiter in DELIMITERS:
        if delimiter != dialect.decimal:
            rows = _rows(lines, replace(dialect, delimiter=delimiter, runs=False), where)
            if _are_usual(rows):
                scored[delimiter] = _share_of_numbers(rows)
    if scored:
        best = [delimiter for delimiter, score in scored.items() if score == max(scored.values())]
        if len(best) > 1:
            names = " or ".join(f"'{Dialect(one).shown}'" for one in best)
            raise UsageError(f"{where}: fields may be delimited by {names}; say which with --delimiter")
        found = replace(dialect, delimiter=best[0])
        _ask_about_commas(_rows(lines, found, where), found, where)
        return found
    blanks = replace(dialect, delimiter=" ", runs=True)
    rows = _rows(lines, blanks, where)
    if _are_usual(rows) and _share_of_numbers(rows) > 0.5:
        return blanks
    if dialect.delimiter == dialect.decimal:
        raise UsageError(f"{where}: no delimiter is found beside the decimal ','; say which with --delimiter")
    return dialect


def _rows(lines: Sequence[bytes], dialect: Dialect, where: str) -> list[list[str]]:
    """Returns the fields of the lines that can be split."""
    rows = []
    for line in lines:
        try:
            rows.append(split_line(line, dialect, where))
        except DataError:
            rows.append([])
    return rows


def _are_usual(rows: Sequence[Sequence[str]]) -> bool:
    """Returns whether the first row and nearly all others have the same number of fields, more than one."""
    width, count = Counter(map(len, rows)).most_common(1)[0]
    return width > 1 and count >= USUAL * len(rows) and len(rows[0]) == width


def _share_of_numbers(rows: Sequence[Sequence[str]]) -> float:
    """Returns the share of numbers, with either decimal sign, among the fields of all rows but the first."""
    fields = [field for row in rows[1:] or rows for field in row]
    return sum(bool(_NUMBER.fullmatch(field) or _WITH_COMMA.fullmatch(field)) for field in fields) / max(len(fields), 1)


def _ask_about_commas(rows: Sequence[Sequence[str]], dialect: Dialect, where: str) -> None:
    """Raises UsageError if a column's numbers all have a decimal comma, and nothing was said about it."""
    if dialect.decimal == "," or dialect.thousands == ",":
        return
    for column in zip(*(row for row in rows[1:] if len(row) == len(rows[0])), strict=True):
        texts = [field for field in column if field]
        if texts and all(map(_WITH_COMMA.fullmatch, texts)):
            raise UsageError(
                f"{where}: below it are numbers such as '{texts[0]}': add --decimal , or, if it groups digits, "
                f"--thousands , (or --delimiter '{dialect.shown}' if they are texts)"
            )
