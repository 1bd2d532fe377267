"""The run's directory: config.json, metrics.jsonl, history.csv and model.keras, each whole or absent."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import keras

from disttrain.checkpoints.store import CheckpointStore
from disttrain.errors import StorageError, UsageError, all_redacted
from disttrain.run.lock import make_writable, remove_empty
from disttrain.storage.local import atomic_write, part_of, remove_parts
from disttrain.training.description import Description
from disttrain.training.saving import loadable

MODEL = "model.keras"
CHECKPOINTS = "checkpoints"  # the default folder of a run's checkpoints
HISTORY = "history.csv"
METRICS = "metrics.jsonl"
BAD_ROWS = "bad-rows.csv"
CONFIG = "config.json"
RESULTS = (MODEL, CONFIG, HISTORY, METRICS, BAD_ROWS)


def default_directory(data: str) -> Path:
    """Returns `runs/NAME-TIME`, named after the data file and the local time."""
    name = data.split("?")[0] if "://" in data else data  # a URL's query may be a signature
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", re.sub(r"\.\w+$", "", name.rstrip("/").rsplit("/", 1)[-1])).strip("-")
    first = Path("runs") / f"{stem or 'data'}-{time.strftime('%Y%m%d-%H%M%S')}"
    others = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([first], others) if not path.exists())


def check_free(path: Path) -> None:
    """Raises UsageError if a directory holds the results of a run, unless these are not worth keeping."""
    present = [name for name in RESULTS if (path / name).exists()]
    if present and not _has_nothing_to_lose(path):
        raise UsageError(
            f"--output {path}: already holds {', '.join(present)}; name another directory or add --overwrite"
        )


def _has_nothing_to_lose(path: Path) -> bool:
    """Returns whether the run in a directory was killed before its first checkpoint, and so may be started again."""
    if (path / MODEL).exists():
        return False
    try:
        config = json.loads((path / CONFIG).read_bytes())
        if config["checkpoint_every"] == "never":
            return not (path / HISTORY).exists()
        checkpoints = config["checkpoint_dir"] or str(path / CHECKPOINTS)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    with CheckpointStore(checkpoints, keep=1) as store:
        return not store.names()


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an OSError into a StorageError that names the file."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}; make room") from error


class RunDirectory:
    """Writes the results of one run; only the leader has one.

    A context manager: if a run fails before its first epoch or checkpoint, what it wrote is removed, so that the same
    command can be given again.
    """

    def __init__(self, path: Path, *, overwrite: bool, goes_on: bool = False, keeps: bool = False) -> None:
        """Makes the directory.

        Args:
            path: where it is, or is to be.
            overwrite: whether the results of an earlier run may go.
            goes_on: whether the results that are there are this run's own.
            keeps: whether what is written stays even if the run fails before its first epoch is done.

        Raises:
            UsageError: if it cannot be written, or holds the results of another run and `overwrite` is false.
            StorageError: if its disk is full.
        """
        self.path = path
        if not overwrite and not goes_on:
            check_free(path)
        self._made = make_writable(path)
        remove_parts(path, "|".join(map(re.escape, RESULTS)), with_living_writers=False)
        for name in RESULTS if not goes_on else ():
            (path / name).unlink(missing_ok=True)
        self._keeps = goes_on or keeps

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or self._keeps or (self.path / CHECKPOINTS).exists() or (self.path / HISTORY).exists():
            return
        for name in RESULTS:
            (self.path / name).unlink(missing_ok=True)
        remove_empty(self._made)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes the resolved configuration to config.json."""
        with atomic_write(self.path / CONFIG) as stream:
            stream.write(json.dumps(all_redacted(dict(config)), indent=2).encode() + b"\n")

    def write_model(self, model: keras.Model, description: Description) -> Path:
        """Saves a model in Keras's format, with its description, and returns its path."""
        path = self.path / MODEL
        scratch = part_of(path)  # Keras requires a name that ends in .keras
        with disk_errors(path):
            try:
                scratch.mkdir()
                with loadable(model):
                    model.save(scratch / MODEL)
                description.add_to(scratch / MODEL)
                with (scratch / MODEL).open("rb") as stream:
                    os.fsync(stream.fileno())
                os.replace(scratch / MODEL, path)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return path
