"""Checks a file's targets for losses that take labels, in one pass, and keeps the result with the file's index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from disttrain.activity import activity
from disttrain.data.epoch import EpochPlan
from disttrain.data.locate import step_rows
from disttrain.data.row_source import RowSource
from disttrain.data.sharding import Sharding
from disttrain.data.superbatches import Feed
from disttrain.distributed.backend import Backend, together
from disttrain.errors import DataError
from disttrain.threads import num_cores

BATCH_ROWS = 1 << 14
MAX_CLASSES = 65_536  # units of a last layer; a larger label is no class number


@dataclass(frozen=True)
class Labels:
    """The largest of a file's targets, the first that is not a class number, and the first that is not in [0, 1].

    The latter two are (row number, number of the target column, value) each, or None if there is no such target.
    """

    most: float
    no_class: tuple[int, int, float] | None
    no_share: tuple[int, int, float] | None

    @classmethod
    def join(cls, parts: Sequence[Labels]) -> Labels:
        """Combines the results for the parts of a file."""
        return cls(
            max(part.most for part in parts),
            min((part.no_class for part in parts if part.no_class is not None), default=None),
            min((part.no_share for part in parts if part.no_share is not None), default=None),
        )


def num_classes(backend: Backend, source: RowSource, cache_dir: Path, loss: str) -> int:
    """Returns how many classes a file's labels name, counting from 0; a collective.

    Raises:
        DataError: if a label is negative, not a whole number or too large; names its line and value.
    """
    labels = _labels(backend, source, cache_dir)
    what = f"but {loss} takes whole numbers from 0 on, one for each class"
    if labels.no_class is not None:
        raise _refused(source, labels.no_class, what)
    return int(labels.most) + 1


def check_shares(backend: Backend, source: RowSource, cache_dir: Path, loss: str) -> None:
    """Raises DataError, with line and value, for a label outside [0, 1]; a collective."""
    labels = _labels(backend, source, cache_dir)
    if labels.no_share is not None:
        raise _refused(source, labels.no_share, f"but {loss} takes labels from 0 to 1")


def _refused(source: RowSource, found: tuple[int, int, float], what: str) -> DataError:
    row, target, value = found
    column = source.target_names[target]
    return DataError(f"{source.place_of(row)}: column '{column}' holds {value:.9g}, {what}")


def _labels(backend: Backend, source: RowSource, cache_dir: Path) -> Labels:
    name = "labels-" + "-".join(source.target_names)
    kept = together(backend, lambda: source.load_finding(cache_dir, name))
    if all(backend.gather(kept is not None)) and kept is not None:
        found = json.loads(kept)
        return Labels(
            found["most"], *(tuple(found[kind]) if found[kind] else None for kind in ("no_class", "no_share"))
        )
    own = together(backend, lambda: _look(backend, source))
    labels = Labels.join(backend.gather(own))
    if backend.world.local_rank == 0:
        source.keep_finding(cache_dir, name, json.dumps(asdict(labels)).encode())
    return labels


def _look(backend: Backend, source: RowSource) -> Labels:
    """Reads this worker's part of the file, on as many threads as it may use; parses only the targets."""
    world = backend.world
    threads = num_cores(world.local_size)
    sharding = Sharding(source.num_rows, world.size * threads, BATCH_ROWS)
    plan = EpochPlan(sharding, range(world.rank * threads, (world.rank + 1) * threads), steps_per_superbatch=1)
    feed = Feed(source.targets_only(), plan, num_threads=threads)
    labels = Labels(-np.inf, None, None)
    with activity("looking at the labels of {}", source.url, waits_for_threads=True), feed.stream() as stream:
        for superbatch in stream:
            data = superbatch.data[0][:, : len(source.target_names)]  # [rows, targets]
            if len(data):
                no_class = ~((data >= 0) & (data < MAX_CLASSES) & (data == np.floor(data)))
                no_share = ~((data >= 0) & (data <= 1))
                numbers = step_rows(source, plan, superbatch.first_step)
                found = (_first(data, numbers, is_odd) for is_odd in (no_class, no_share))
                labels = Labels.join([labels, Labels(float(data.max()), *found)])
    if source.bad_rows is not None:
        source.bad_rows.take()  # the first epoch finds them again
    return labels


def _first(
    data: npt.NDArray[np.float32], numbers: npt.NDArray[np.int64], is_odd: npt.NDArray[np.bool_]
) -> tuple[int, int, float] | None:
    """Returns the first odd value's row number, target column and value; data and is_odd are [rows, targets]."""
    odd = [(int(numbers[row]), int(target), float(data[row, target])) for row, target in np.argwhere(is_odd)]
    return min(odd, default=None)
