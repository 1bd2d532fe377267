"""Prints what `disttrain inspect` found, for people: a line for each column, the most noteworthy if there are many."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import datetime, timezone

from rich.console import Console
from rich.table import Table as Grid

from disttrain.data.table.statistics import ColumnStatistics
from disttrain.run.inspection import Inspected, describe

WIDTH = 160  # where there is no terminal
MAX_COLUMNS = 60  # that are shown; --json has all
MAX_EXAMPLES = 3
MAX_TEXT = 20  # characters of an example


def report(found: Inspected) -> None:
    """Prints it."""
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
    columns = found.statistics.columns
    console.print(f"{found.url}: {found.statistics.num_rows:,} rows, {len(columns):,} columns used")
    shown = _shown(found)
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for title in ("column", "kind", "holds", "missing", "distinct", "mean", "std", "median", "done"):
        right = title in ("missing", "distinct", "mean", "std", "median")
        grid.add_column(title, justify="right" if right else "left", overflow="fold")
    for own in shown:
        grid.add_row(*_cells(found, own))
    console.print(grid)
    if len(shown) < len(columns):
        kinds = Counter(_kind(found, own) for own in columns)
        counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        console.print(f"and {len(columns) - len(shown):,} more columns ({counted} in all); --json has them")
    for remark in found.remarks:
        console.print(remark)
    if found.problem:
        console.print(f"As it stands, this does not train: {found.problem}")
    console.print(f"To train: {found.command}", soft_wrap=True)


def _shown(found: Inspected) -> list[ColumnStatistics]:
    """Returns the columns to show: all or, of too many, those with gaps or left out and then the first, in order."""
    columns = list(found.statistics.columns)
    if len(columns) <= MAX_COLUMNS:
        return columns
    left_out = {column.name for column in found.table.left_out} if found.table is not None else set()
    noteworthy = [own for own in columns if own.missing or own.name in left_out or _kind(found, own) == "category"]
    others = [own for own in columns if own not in noteworthy]
    chosen = {own.name for own in (noteworthy[: MAX_COLUMNS // 2] + others)[: MAX_COLUMNS - 1]} | {columns[-1].name}
    return [own for own in columns if own.name in chosen]


def _kind(found: Inspected, own: ColumnStatistics) -> str:
    if found.table is not None:
        kinds = {column.name: column.kind for column in found.table.columns}
        kinds |= {column.name: column.kind for column in found.table.left_out}
        return kinds[own.name]
    return "number" if own.numbers else "time" if own.times else "text"


def _cells(found: Inspected, own: ColumnStatistics) -> list[str]:
    kind = _kind(found, own)
    is_number = bool(own.numbers or own.times) and kind != "category"
    numbers = [_number(value, own) for value in (own.mean, own.std, own.median)] if is_number else [""] * 3
    if kind == "time" and own.times:
        numbers = [_time(own.mean), f"{own.std / 86_400:.4g} d", _time(own.median)]
    distinct = f"{own.distinct:,}" if own.is_exact else f"~{own.distinct:,}"
    missing = f"{own.missing:,}" if own.missing else ""
    return [own.name, kind, _holds(own, kind), missing, distinct, *numbers, describe(found, own.name)]


def _holds(own: ColumnStatistics, kind: str) -> str:
    if kind == "time" and own.times:
        return f"{_time(own.min)} to {_time(own.max)}"
    if own.numbers and kind in ("number", "time"):
        return f"{_number(own.min, own)} to {_number(own.max, own)}"
    texts = [str(key) for key, _ in (own.values or ())[:MAX_EXAMPLES]]
    short = [text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…" for text in texts]
    return ", ".join(short) + (", …" if own.distinct > MAX_EXAMPLES else "")


def _number(value: float, own: ColumnStatistics) -> str:
    return f"{value:,.0f}" if own.is_whole and value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _time(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M}".removesuffix(" 00:00")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.6g} s"
