"""The subcommand `make-data`."""

from __future__ import annotations

from collections.abc import Mapping

from disttrain.config import Settings, option, positional
from disttrain.config.loading import Command
from disttrain.config.option_types import Count

DESCRIPTION = "Writes regression data as CSV: one feature gives y = x, more give a smooth function of them."


class MakeDataConfig(Settings):
    """The options of `disttrain make-data`."""

    file: str = positional("CSV to write")
    rows: Count = option("recipe", "data lines, such as 1000000 or 500e6", 1_000_000)
    features: Count = option("recipe", "feature columns; y is a smooth function of them (of one: y = x)", 1)
    noise: float = option("recipe", "standard deviation of the Gaussian noise on y", 0.0, ge=0, allow_inf_nan=False)
    seed: int = option("recipe", "random seed: the same seed gives the same file", 0, ge=0, lt=2**32)
    overwrite: bool = option("output", "replace the file if it exists", False)


def write_data(config: MakeDataConfig, environ: Mapping[str, str]) -> None:
    """Writes the file that `config` names."""
    from disttrain.synthetic.progress import file_progress
    from disttrain.synthetic.regression import Recipe, make_data

    recipe = Recipe(config.rows, config.features, config.noise, config.seed)
    with file_progress(f"writing {config.file}", config.rows) as on_progress:
        make_data(config.file, recipe, overwrite=config.overwrite, on_progress=on_progress)


COMMAND = Command("disttrain make-data", MakeDataConfig, DESCRIPTION, write_data)
