"""The checkpoints of a run in one directory, local or in a store: saves them whole, removes old ones, finds them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Literal

from disttrain.checkpoints.file import (
    Checkpoint,
    Position,
    file_name,
    position_of,
    read_about,
    read_checkpoint,
    write_checkpoint,
)
from disttrain.errors import CheckpointError, DisttrainError, FileChanged, NewerFormat, StorageError, UsageError
from disttrain.storage.base import PATIENCE_AGAIN, Patience
from disttrain.storage.open import open_directory, open_reader
from disttrain.storage.stream import ReaderStream

VALUES = "values"  # where `about` has the losses and metrics that a checkpoint was saved with
_NAMES = r"epoch-\d+-step-\d+\.ckpt"
_log = logging.getLogger(__name__)

BestMode = Literal["min", "max"]


def names_to_remove(
    names: Collection[str], just_written: str, *, keep: int, values: Mapping[str, float], mode: BestMode = "min"
) -> list[str]:
    """Returns the names to remove: all but the newest `keep`, the best by value (the first of equals) and the new one.

    `values` has the monitored value of each checkpoint whose value is known.
    """
    ordered = sorted((name for name in names if position_of(name)), key=position_of)  # type: ignore[arg-type]
    stay = {just_written, *ordered[-keep:]}
    valued = [name for name in ordered if not math.isnan(values.get(name, math.nan))]
    if valued:
        stay.add((min if mode == "min" else max)(valued, key=lambda name: values[name]))
    return [name for name in ordered if name not in stay]


class CheckpointStore:
    """A directory, local or of any fsspec URL, with a file for each checkpoint that is kept."""

    def __init__(
        self, url: str, *, keep: int, best_by: tuple[str, BestMode] | None = None, patience: Patience = PATIENCE_AGAIN
    ) -> None:
        """Opens nothing yet: the directory is made when the first checkpoint is saved.

        Args:
            url: the directory; one that does not exist has no checkpoints.
            keep: how many of the newest stay, at least 1.
            best_by: the name of a monitored value, and whether its min or max is best; that checkpoint stays too.
            patience: for the retries of remote stores; the upload of a large object gets more time.
        """
        self.url = url.rstrip("/")
        self._keep = keep
        self._best_by = best_by
        self._patience = patience
        self._directory = open_directory(self.url, patience, file_names=_NAMES)
        self._values: dict[str, float] = {}  # NaN where there is none
        self._refused: set[str] = set()
        self._has_warned = False

    def save(self, checkpoint: Checkpoint, values: Mapping[str, float] | None = None) -> str:
        """Saves a checkpoint whole or not at all, then removes those that need not stay; returns its URL.

        Args:
            checkpoint: its `about` gets `values` under the key "values".
            values: losses and metrics, by which the best is chosen.

        Raises:
            StorageError: if the directory cannot take it; what was there is still there.
            UsageError: if a remote store never will: no such bucket, no credentials.
        """
        name = file_name(checkpoint.position)
        if values is not None:
            kept = {key: float(value) for key, value in values.items()}
            checkpoint = replace(checkpoint, about={**checkpoint.about, VALUES: kept})
        self._directory.put(name, lambda stream: write_checkpoint(checkpoint, stream))
        self._refused.discard(name)
        self._values[name] = self._monitored(checkpoint.about)
        try:
            self._prune(name)
        except (DisttrainError, OSError) as error:
            if not self._has_warned:
                _log.warning("old checkpoints were not removed: %s", error)
            self._has_warned = True
        return self.url_of(name)

    def newest(self, on_refused: Callable[[str, str], None]) -> Checkpoint | None:
        """Returns the furthest whole checkpoint, or None; calls `on_refused(name, reason)` for each that is not whole.

        Raises:
            StorageError: if one cannot be read now, although it may well be whole.
            NewerFormat: if a newer disttrain wrote it.
            UsageError: if access to it is denied.
        """
        for name in reversed(self.names()):
            try:
                return self.load(name)
            except NewerFormat as error:
                raise NewerFormat(f"{error}, or name another directory") from error
            except (FileChanged, StorageError) as error:
                raise StorageError(
                    f"{error}; if it keeps failing, remove it to go on from the checkpoint before it"
                ) from error
            except CheckpointError as error:
                reason = str(error).removeprefix(f"{self.url_of(name)}: ")
            except UsageError:
                if name in self.names():
                    raise
                reason = "was removed meanwhile"
            self._refused.add(name)
            on_refused(name, reason)
        return None

    def load(self, name: str) -> Checkpoint:
        """Reads the checkpoint of a name in this directory, or at a path or URL anywhere.

        Raises:
            CheckpointError: if it is torn, damaged, foreign or of a newer format.
            UsageError: if it is not there or may not be read.
            StorageError: if it cannot be read.
        """
        url = self.url_of(name) if position_of(name) else name
        with open_reader(url, patience=self._patience) as reader:
            return read_checkpoint(ReaderStream(reader), url)

    def names(self) -> list[str]:
        """Returns the names of the checkpoints, the furthest last; does not check that they are whole."""
        found = [name for name in self._directory.names() if position_of(name)]
        return sorted(found, key=position_of)  # type: ignore[arg-type]

    def url_of(self, name: str) -> str:
        """Returns the URL of the checkpoint of this name."""
        return f"{self.url}/{name}"

    def remove_after(self, position: Position | None) -> None:
        """Removes all checkpoints after `position` (None: all), as when a run goes on from an earlier checkpoint."""
        for name in self.names():
            if position is None or position_of(name) > position:  # type: ignore[operator]
                self._directory.remove(name)

    def close(self) -> None:
        """Cancels what is being sent; a second call does nothing."""
        self._directory.close()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prune(self, just_written: str) -> None:
        names = [name for name in self.names() if name not in self._refused]
        if self._best_by is not None and len(names) > self._keep:
            for name in names:
                if name not in self._values:
                    self._values[name] = self._read_value(name)
        mode = self._best_by[1] if self._best_by is not None else "min"
        for name in names_to_remove(names, just_written, keep=self._keep, values=self._values, mode=mode):
            self._directory.remove(name)

    def _read_value(self, name: str) -> float:
        """Returns the monitored value of a checkpoint that an earlier process saved; NaN if there is none."""
        url = self.url_of(name)
        try:
            with open_reader(url, patience=self._patience) as reader:
                return self._monitored(read_about(ReaderStream(reader), url))
        except (CheckpointError, FileChanged):
            return math.nan

    def _monitored(self, about: Mapping[str, object]) -> float:
        values = about.get(VALUES)
        if self._best_by is None or not isinstance(values, Mapping):
            return math.nan
        return float(values.get(self._best_by[0], math.nan))
