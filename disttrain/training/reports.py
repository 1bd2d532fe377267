"""What a training tells while it goes on, and who may want to hear it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from disttrain.training.progress import EpochResult


@dataclass(frozen=True)
class EpochBegun:
    """An epoch, counted from 1, is about to read its first row, or the one after the `rows` that are done."""

    epoch: int
    rows: int


@dataclass(frozen=True)
class StepsDone:
    """So many of an epoch's steps and rows are done, at this mean loss; the speed is that of this process."""

    epoch: int
    step: int
    rows: int
    loss: float
    rows_per_s: float


@dataclass(frozen=True)
class StepsSkipped:
    """Of an epoch's steps up to `step`, `count` more were left out for numbers that are not finite."""

    epoch: int
    step: int
    count: int


@dataclass(frozen=True)
class EpochEnded:
    """An epoch's training and validation are done."""

    result: EpochResult


@dataclass(frozen=True)
class BytesFetched:
    """In an epoch's training, each worker, in the order of ranks, fetched so much of the files from stores."""

    epoch: int
    num_bytes: tuple[int, ...]
    num_requests: tuple[int, ...]


@dataclass(frozen=True)
class Regrouped:
    """An elastic run goes on with other workers from a position, so many seconds after the last ones were together."""

    why: str
    workers: int
    workers_before: int
    epoch: int
    step: int
    seconds: float


Event = EpochBegun | StepsDone | StepsSkipped | BytesFetched | EpochEnded | Regrouped


class Reporter(Protocol):
    """Hears of a training's events; only the leader has reporters."""

    def report(self, event: Event) -> None:
        """Hears of each event, in order, and may ignore it."""

    def close(self) -> None:
        """Lets go of what it shows or writes to; safe to call twice."""
