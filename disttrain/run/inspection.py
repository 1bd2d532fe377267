"""Looks at a file's columns as a training does: what they hold, what would be done to each, which command trains."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from disttrain.config import InspectConfig, default_cache_dir
from disttrain.data.csv.columns import remarks as told
from disttrain.data.csv.headers import read_text
from disttrain.data.csv.kept_index import index_text
from disttrain.data.csv.kept_statistics import Indexed, StatisticsOf, statistics_of
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.csv.value_reader import text_at
from disttrain.data.table.checks import sorted_warning
from disttrain.data.table.decide import Decider, TargetUse
from disttrain.errors import DataError, redacted
from disttrain.run.column_options import requests_of
from disttrain.run.shared_text import how_read
from disttrain.threads import num_cores

if TYPE_CHECKING:
    from disttrain.data.table.columns import Table
    from disttrain.data.table.statistics import Statistics

_AS_ALL_LOSSES = TargetUse(takes_classes=True, may_scale=True, may_shift=True)


@dataclass(frozen=True)
class Inspected:
    """What was found: the statistics, the table that a training would use, sentences about it, and its command.

    `problem` is what would keep the command as it was given from training, or an empty text.
    """

    url: str
    statistics: Statistics
    table: Table | None
    remarks: tuple[str, ...]
    problem: str
    command: str


def look_at(config: InspectConfig, environ: Mapping[str, str]) -> Inspected:
    """Gathers the statistics and decides about the columns, as a training does; raises what that raises."""
    cache_dir = config.cache_dir or default_cache_dir(environ)
    text = read_text(config.data, how_read(config, cache_dir))
    url, features, targets = text.info.url, config.features or None, config.targets or None
    with OpenCsv.choose(
        text, features=features, targets=targets, weight=config.weight, exclude=config.exclude
    ) as opened:

        def obtain(wanted: StatisticsOf) -> Indexed:
            kept = wanted.load(cache_dir)
            if kept is not None:
                return kept
            threads = num_cores(1)
            index = index_text(text, cache_dir, num_threads=threads) if wanted.takes_two_passes else None
            found = wanted.join([wanted.gather(0, 1, threads, index)], index)
            wanted.keep(cache_dir, found)
            return found

        requests = requests_of(config, opened.target_names)
        requests.check_names(opened.header.names, url)
        indexed = statistics_of(opened, requests, obtain)
        statistics = indexed.statistics
        place_of, text_of = partial(indexed.index.place, text), partial(text_at, text)
        table: Table | None = None
        remarks: tuple[str, ...] = ()
        problem, extra = "", []
        for trial in (requests, replace(requests, default_missing="median")):
            decider = Decider(statistics, trial, url, place_of, text_of, is_explicit=bool(config.features))
            try:
                decided = decider.decide(opened.feature_names, opened.target_names, _AS_ALL_LOSSES)
            except DataError as error:
                problem = problem or str(error)
                continue
            table, remarks = decided.table, decided.remarks
            extra = ["--missing", "median"] if problem else []
            break
    finds = config.delimiter == "auto"
    remarks = (*told(text.header, config.header, features, opened.target_names, finds_delimiter=finds), *remarks)
    if warning := sorted_warning(statistics, opened.target_names, url):
        remarks += (warning,)
        extra += ["--shuffle", "global"]
    return Inspected(url, statistics, table, remarks, problem, _command(config, extra))


def _command(config: InspectConfig, extra: list[str]) -> str:
    """Returns the command that trains on the file with these options."""
    words = ["python", "-m", "disttrain", "--data", *map(redacted, config.data)]
    for name in sorted(
        config.model_fields_set - {"data", "json_", "cache_dir"}, key=list(type(config).model_fields).index
    ):
        value = getattr(config, name)
        if name == "missing" and "--missing" in extra:
            value, extra = (*value, "median"), [word for word in extra if word not in ("--missing", "median")]
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(",".join(value) if isinstance(value, tuple) else str(value))
    return " ".join(map(shlex.quote, words + extra))


def as_json(found: Inspected) -> dict[str, Any]:
    """Returns all of it as plain data; a number that is not known is null."""
    columns = []
    done = {column.name: column for column in found.table.columns} if found.table is not None else {}
    left_out = {column.name: column for column in found.table.left_out} if found.table is not None else {}
    for own in found.statistics.columns:
        plain = {name: None if _is_nan(value) else value for name, value in asdict(own).items()}
        column = done.get(own.name)
        kind = column.kind if column is not None else left_out[own.name].kind if own.name in left_out else None
        role = column.role if column is not None else "left out" if own.name in left_out else None
        columns.append({**plain, "kind": kind, "role": role, "done": describe(found, own.name)})
    return {
        "data": redacted(found.url),
        "rows": found.statistics.num_rows,
        "columns": columns,
        "remarks": list(found.remarks),
        "problem": found.problem or None,
        "command": found.command,
    }


def describe(found: Inspected, name: str) -> str:
    """Returns what would be done to a column, in a few words."""
    if found.table is None:
        return ""
    for left_out in found.table.left_out:
        if left_out.name == name:
            return left_out.why.partition(";")[0]
    column = next(column for column in found.table.columns if column.name == name)
    parts: list[str] = [column.role] if column.role != "feature" else []
    if column.kind == "category":
        size = f"hashed to {column.bins:,}" if column.bins else f"{len(column.categories):,} categories"
        parts.append(f"{len(column.categories):,} labels" if column.role == "target" else size)
    if column.parts:
        parts.append(" ".join(column.parts))
    if column.scale != 1 or column.unit != 1:
        parts.append(f"(x - {column.offset:.6g}) / {column.scale * column.unit:.6g}".replace("- -", "+ "))
    if column.fill is not None and found.statistics.of(name).missing:
        parts.append(f"gaps become {column.fill:.6g}" + (", with an indicator" if column.has_indicator else ""))
    if column.has_gaps:
        parts.append("gaps are a category")
    if column.drops:
        parts.append("rows with gaps weigh 0")
    return "; ".join(parts) or "as it is"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
