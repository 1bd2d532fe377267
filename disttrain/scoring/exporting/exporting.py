"""Exports a trained model: written, compared with the Keras model on rows of a file, then put in its place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from disttrain.activity import activity
from disttrain.config import ExportSettings, default_cache_dir
from disttrain.distributed.backend import BackendOptions
from disttrain.errors import listed
from disttrain.run.console import open_console
from disttrain.run.context import FilesContext
from disttrain.run.watched_world import watched_world
from disttrain.scoring.exporting.checking import rows_to_check
from disttrain.scoring.exporting.exportable import MATRIX, computing_in_float32, exportable
from disttrain.scoring.exporting.exported import conversion
from disttrain.scoring.exporting.place import check_free, place_of, put
from disttrain.scoring.exporting.writers import writer_of
from disttrain.scoring.saved import Trained, model_file
from disttrain.storage.store_calls import give_up_within

_MOST_NAMES = 20  # in a line


@dataclass(frozen=True)
class _Alone:
    """A world of one worker."""

    timeout: float
    backend: str = "local"


def write_export(config: ExportSettings, environ: Mapping[str, str], trained: Trained | None = None) -> str:
    """Writes a model in another format; returns where.

    Args:
        config: what the user asks for.
        environ: as the process was given it.
        trained: a model that is no file.

    Raises:
        UsageError: for a model that the format cannot hold, or that gives other answers in it.
        DisttrainError: what opening model and files raises.
    """
    give_up_within(config.timeout)
    url = place_of(config.model, config.output, config.format)
    check_free(url, config.format, overwrite=config.overwrite)
    write = writer_of(config.format)
    with _opened(config, environ) as context, tempfile.TemporaryDirectory() as place:
        if trained is None:
            with model_file(config.model) as file:
                trained = file.open(trust=config.trust_model)
        made = Path(place) / "model"
        with computing_in_float32(trained.core):
            model = exportable(trained)
            checked = rows_to_check(context, config, trained, model)
            with conversion(config.format), activity("writing the model as {}", config.format):
                exported = write(trained, model, made)
            with conversion(config.format), activity("comparing the model on {}", checked.shown):
                difference = checked.largest_difference(exported.run, f"--format {config.format}")
        size = put(made, url)
        say = context.console.print
        say(f"Compared with the Keras model on {checked.shown}: largest difference {difference:.2g}")
        say(f"Inputs: {_shown(trained)}; outputs: {', '.join(exported.outputs.values())}")
        if renamed := [f"{name} is called {own}" for name, own in exported.inputs.items() if name != own]:
            say(", ".join(renamed))
        for note in exported.notes:
            say(note)
        say(f"{config.model} -> {url}, {size / 1000:,.1f} kB")
    return url


def _shown(trained: Trained) -> str:
    """Returns the inputs' names, and the columns of a matrix."""
    columns = listed(trained.description.features, _MOST_NAMES)
    return columns if trained.description.table is not None else f"{MATRIX} ({columns})"


@contextmanager
def _opened(config: ExportSettings, environ: Mapping[str, str]) -> Iterator[FilesContext]:
    alone, options = _Alone(config.timeout), BackendOptions(timeout_s=config.timeout)
    nobody_else: dict[str, str] = {}  # also in a program that a launcher started on several workers
    with watched_world(alone, nobody_else, options, lambda: None) as (backend, stack):
        console = open_console(is_quiet=False, is_terminal=None)
        yield FilesContext(config, backend, config.cache_dir or default_cache_dir(environ), console, stack)
