"""The rows of a table for a trained model: its columns are found by name, and read as those it was trained on were."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import replace

from disttrain.data.csv.header import Header
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.csv.source import Source
from disttrain.data.table.columns import Column, Table
from disttrain.distributed.backend import together
from disttrain.errors import UsageError
from disttrain.run.bad_rows import bad_rows_of
from disttrain.run.context import FilesContext
from disttrain.run.shared_index import shared_index
from disttrain.run.shared_text import shared_text
from disttrain.training.description import Description


def open_rows(context: FilesContext, description: Description, model: str, *, with_targets: bool) -> Source:
    """Opens and indexes the data, on all workers together; what it opens, the context's stack closes.

    Args:
        context: where, and how the files are read.
        description: of the model.
        model: what messages call it.
        with_targets: whether the rows have the targets, and their weights if the model was trained with them.

    Raises:
        UsageError: for columns that the model takes and the files do not have, with the nearest names.
        DataError: for a file without rows, and one that cannot be read.
    """
    text = shared_text(context, context.config.data)
    table = _table(description, with_targets=with_targets, names=text.header.names)
    if with_targets and (lost := _lost_weight(description.table, text.header.names)) is not None:
        context.console.print(f"There is no column '{lost}' of the rows' weights: all rows count alike")
    targets = description.targets if with_targets else ()
    wanted = [*description.features, *targets]
    together(context.backend, lambda: _check_columns(text.header, wanted, description, text.files[0].info.url, model))
    index = shared_index(context.backend, text, context.cache_dir)

    def finish() -> Source:
        bad_rows = bad_rows_of(context.config, index.num_rows)
        source = Source.of(OpenCsv(text, description.features, targets), index, bad_rows=bad_rows)
        return source if table is None else source.encoded(table)

    return together(context.backend, finish)


def _table(description: Description, *, with_targets: bool, names: Sequence[str]) -> Table | None:
    """Returns what is done to the columns of these rows.

    Rows count alike: weights of classes are a matter of training. A gap in a column of numbers whose gaps were left out
    of the training has no prediction: its number is NaN. A category's is taken for one that the vocabulary lacks.
    """
    table = description.table
    if table is None:
        return None
    if not with_targets:
        features = tuple(_with_gaps_as_nan(column) for column in table.features)
        return replace(table, columns=features, class_weights=None, is_weighted=False)
    columns = tuple(column for column in table.columns if column.role != "weight" or column.name in names)
    is_weighted = any(column.role == "weight" or column.drops for column in columns)
    return replace(table, columns=columns, class_weights=None, is_weighted=is_weighted)


def _lost_weight(table: Table | None, names: Sequence[str]) -> str | None:
    weights = [column.name for column in table.columns if column.role == "weight"] if table is not None else []
    return weights[0] if weights and weights[0] not in names else None


def _with_gaps_as_nan(column: Column) -> Column:
    if not column.drops:
        return column
    return replace(column, drops=False, fill=math.nan if column.kind != "category" else None)


def _check_columns(header: Header, wanted: Sequence[str], description: Description, where: str, model: str) -> None:
    """Raises UsageError that names every column that is missing, and the nearest one that is there."""
    missing = [name for name in wanted if name not in header.names]
    if not missing:
        return
    spare = [name for name in header.names if name not in wanted]
    lines = []
    for name in missing:
        close = difflib.get_close_matches(name, spare, n=1, cutoff=0.5)
        what = "target" if name in description.targets else "feature"
        lines.append(f"the {what} '{name}'" + (f" (is it '{close[0]}'?)" if close else ""))
    raise UsageError(f"{where}: does not have all columns that {model} needs: it lacks {', '.join(lines)}")
