"""What is checked of files whose columns are known: whether they fit a table, and whether their rows are sorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from disttrain.data.place import Place
from disttrain.data.table.columns import Table
from disttrain.data.table.statistics import Statistics
from disttrain.errors import DataError


def show_rows(count: int) -> str:
    """Returns a number of rows as a message shows it."""
    return "1 row" if count == 1 else f"{count:,} rows"


def check_fits(table: Table, statistics: Statistics, where: str, place_of: Callable[[int], Place]) -> None:
    """Raises DataError if another file has gaps, texts or labels that the table does not provide for."""
    for column in table.columns:
        own = statistics.of(column.name)
        if column.kind != "category" and own.first_text is not None:
            raise DataError(
                f"{place_of(own.first_text)}: column '{column.name}' holds a text, expected a {column.kind}"
            )
        if column.kind == "category" and column.role == "target":
            unknown = [text for text, _ in own.values or () if text not in column.categories]
            if unknown:
                raise DataError(f"{where}: the target '{column.name}' has the unknown label '{unknown[0]}'")
        if own.missing and not (column.drops or column.fills_gaps):
            raise DataError(
                f"{place_of(own.first_missing or 0)}: nothing stands in '{column.name}' "
                f"({show_rows(own.missing)}); say what to do with --missing, or correct the file"
            )


def sorted_warning(statistics: Statistics, targets: Sequence[str], where: str) -> str:
    """Returns a warning that the rows are sorted by one of the targets, or an empty text."""
    name = next((name for name in targets if statistics.of(name).order), None)
    if name is None:
        return ""
    return (
        f"Warning: {where} is sorted by its target '{name}': in the file's order, a batch's targets are much alike, "
        "and the model learns the last ones; add --shuffle global"
    )
