"""The table of a run: what is done to each column of its files, decided alike on all workers."""

from __future__ import annotations

from functools import partial

from disttrain.data.csv.index import Index
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.csv.value_reader import text_at
from disttrain.data.table.checks import check_fits, sorted_warning
from disttrain.data.table.columns import Table
from disttrain.data.table.decide import Decided, Decider
from disttrain.distributed.backend import together
from disttrain.errors import UsageError
from disttrain.run.column_options import requests_of
from disttrain.run.context import RunContext
from disttrain.run.shared_statistics import shared_statistics
from disttrain.training.heads import target_use
from disttrain.training.model import takes_table


def understand(context: RunContext, opened: OpenCsv, url: str, like: Table | None) -> tuple[Index, Table | None]:
    """Reads a file for its index and statistics, and returns what is done to each column; a collective.

    That is None if all become float32 as they are.

    Args:
        context: the run's.
        opened: the file.
        url: it, as the user named it.
        like: the table of the training file, if this is the validation file, for which it holds too.
    """
    if like is None:
        return _find_table(context, opened, url)
    found = shared_statistics(context, opened)
    place_of = partial(found.index.place, opened.text)
    if context.config.on_bad_row == "error":
        together(context.backend, lambda: check_fits(like, found.statistics, url, place_of))
    return found.index, like


def _find_table(context: RunContext, opened: OpenCsv, url: str) -> tuple[Index, Table | None]:
    """Gathers the statistics of a file, decides about its columns, and says what was decided."""
    config, backend = context.config, context.backend
    requests = requests_of(config, opened.target_names)
    together(backend, lambda: requests.check_names(opened.header.names, url))
    found = shared_statistics(context, opened)
    index, statistics = found.index, found.statistics
    if not index.num_rows:
        return index, None  # which is refused
    place_of, text_of = partial(index.place, opened.text), partial(text_at, opened.text)

    def decide() -> tuple[Decided, bool]:
        decider = Decider(statistics, requests, url, place_of, text_of, is_explicit=bool(config.features))
        decided = decider.decide(opened.feature_names, opened.target_names, target_use(config))
        by_name = takes_table(config)
        categories = [column.name for column in decided.table.features if column.kind == "category"]
        if categories and config.model is not None and not by_name:
            raise UsageError(
                f"--model {config.model}: gets a matrix of numbers, but '{categories[0]}' holds texts; let the "
                "function take `table`, and the model the columns by name, or leave the column out with --features"
            )
        return decided, by_name

    decided, by_name = together(backend, decide)
    warning = sorted_warning(statistics, opened.target_names, url)
    remarks = [*decided.remarks, *([warning] if warning and config.shuffle != "global" else [])]
    for remark in remarks if context.continuity.change is None else ():  # else an elastic run has said it
        context.console.print(remark)
    table = decided.table
    is_plain = table.is_plain and not table.left_out and not by_name
    return index, None if is_plain else table
