"""The subcommand `inspect`: what a file's columns hold, and what a training would do to each."""

from __future__ import annotations

import json
from collections.abc import Mapping

from disttrain.config import ColumnSettings, option, positional
from disttrain.config.loading import Command
from disttrain.option_types import Directory, Places

DESCRIPTION = "Says what the columns of a CSV hold, what a training would do to each, and which command trains on it."


class InspectConfig(ColumnSettings):
    """The options of `disttrain inspect`."""

    data: Places = positional(
        "CSV files to look at, as one dataset: paths, URLs that fsspec opens, patterns or directories", min_length=1
    )
    json_: bool = option("output", "print everything as JSON, the statistics too", False)
    cache_dir: Directory | None = option(
        "output", "directory for indexes and statistics. Default: $XDG_CACHE_HOME/disttrain or ~/.cache/disttrain", None
    )


def inspect(config: InspectConfig, environ: Mapping[str, str]) -> None:
    """Prints what is found about the file that `config` names."""
    from disttrain.run.inspection import as_json, look_at

    found = look_at(config, environ)
    if config.json_:
        print(json.dumps(as_json(found), indent=2))
        return
    from disttrain.run.inspection_report import report  # rich takes a while to import

    report(found)


COMMAND = Command("disttrain inspect", InspectConfig, DESCRIPTION, inspect)
