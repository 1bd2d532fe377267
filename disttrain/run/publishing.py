"""Copies a run's results to where others fetch them: a directory, local or in a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from disttrain.activity import activity
from disttrain.run.directory import CONFIG, MODEL, RESULTS, RunDirectory
from disttrain.storage.base import PATIENCE, PATIENCE_AGAIN, Patience
from disttrain.storage.local import copier_of
from disttrain.storage.open import open_directory


def begin_publishing(directory: RunDirectory | None, url: str | None) -> None:
    """Copies the configuration, on the leader, before the training: what cannot be written to is refused by then."""
    if directory is not None and url is not None:
        _copy(directory.path, url, [CONFIG], PATIENCE)


def publish(path: Path, url: str) -> None:
    """Copies the results of the run in a directory, each whole; the model, by which one knows a finished run, last.

    Results of an earlier run that this one does not have are removed there.

    Raises:
        UsageError: if the place cannot be written to.
        StorageError: if the store or the disk fails.
    """
    _copy(path, url, sorted(RESULTS, key=MODEL.__eq__), PATIENCE_AGAIN)


def _copy(path: Path, url: str, names: Sequence[str], patience: Patience) -> None:
    directory = open_directory(url, patience)
    try:
        own = {name for name in names if (path / name).exists()}
        earlier = set(directory.names()) if len(own) < len(names) else set()
        for name in names:
            if name in own:
                with activity("publishing {} to {}", name, url):
                    directory.put(name, copier_of(path / name))
            elif name in earlier:
                directory.remove(name)
    finally:
        directory.close()
