"""The subcommand `make-data`."""

from __future__ import annotations

from collections.abc import Mapping

from disttrain.config import MakeDataConfig
from disttrain.options import Command

DESCRIPTION = "Writes regression data as CSV: one feature gives y = x, more give a smooth function of them."


def write_data(config: MakeDataConfig, environ: Mapping[str, str]) -> None:
    """Writes the file that `config` names."""
    from disttrain.synthetic.progress import file_progress
    from disttrain.synthetic.regression import Recipe, make_data

    recipe = Recipe(config.rows, config.features, config.noise, config.seed)
    with file_progress(f"writing {config.file}", config.rows) as on_progress:
        make_data(config.file, recipe, overwrite=config.overwrite, on_progress=on_progress)


COMMAND = Command("disttrain make-data", MakeDataConfig, DESCRIPTION, write_data)
