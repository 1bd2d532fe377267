"""The subcommand `inspect`: what a file's columns hold, and what a training would do to each."""

from __future__ import annotations

import json
from collections.abc import Mapping

from disttrain.config import InspectConfig
from disttrain.config.loading import Command

DESCRIPTION = "Says what the columns of a CSV hold, what a training would do to each, and which command trains on it."


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
