"""The options of `disttrain inspect`."""

from __future__ import annotations

from disttrain.config.columns import ColumnSettings
from disttrain.config.option_types import Directory, Places
from disttrain.config.settings import option, positional


class InspectConfig(ColumnSettings):
    """The options of `disttrain inspect`."""

    data: Places = positional(
        "CSV files to look at, as one dataset: paths, URLs that fsspec opens, patterns or directories", min_length=1
    )
    json_: bool = option("output", "print everything as JSON, the statistics too", False)
    cache_dir: Directory | None = option(
        "output", "directory for indexes and statistics. Default: $XDG_CACHE_HOME/disttrain or ~/.cache/disttrain", None
    )
