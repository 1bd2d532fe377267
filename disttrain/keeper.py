"""When a run in training keeps what it has come to, and what it is asked at the borders of its compiled calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from disttrain.checkpoint import Checkpoint
from disttrain.checkpoint_writer import CheckpointWriter
from disttrain.commits import Commits
from disttrain.config import Every
from disttrain.stopping import StopSignals

COMMIT_S = 1.0  # how much of an elastic run's work is done again at most when a worker is lost
COMMIT_SHARE = 0.02  # of the time may go into commits


@dataclass(frozen=True)
class Wishes:
    """What the workers want at a border: the same on all of them once their votes are summed."""

    stop: bool
    checkpoint: bool
    change: bool

    @classmethod
    def of(cls, votes: npt.NDArray[np.float32]) -> Wishes:
        """The wishes that any worker has, from the sum of all workers' votes."""
        return cls(*(bool(vote > 0) for vote in votes))


class Keeper:
    """One worker's part in keeping the run: its votes, and where a checkpoint goes.

    The leader decides when one is due. All workers take part in making it; the leader's goes to the `writer`, and in an
    elastic run each worker commits its own copy.
    """

    def __init__(
        self,
        every: Every,
        writer: CheckpointWriter | None,
        stop: StopSignals,
        describe: Callable[[], Mapping[str, Any]],
        commits: Commits | None = None,
    ) -> None:
        """`describe` gives what a checkpoint tells besides the training's state; `writer` is the leader's alone."""
        self._every = every
        self._writer = writer
        self._stop = stop
        self._describe = describe
        self._commits = commits
        self._commit_s = COMMIT_S
        self._committed_s = self._written_s = time.monotonic()
        self._steps = self._written_steps = 0

    @property
    def wants_state(self) -> bool:
        """Whether this worker has a use for the numbers themselves."""
        return self._writer is not None or self._commits is not None

    @property
    def every_worker_keeps(self) -> bool:
        """Whether all workers keep checkpoints, as in an elastic run, where any of them may come to lead."""
        return self._commits is not None

    @property
    def is_stopping(self) -> bool:
        """Whether this worker was asked to stop."""
        return self._stop.asked

    def votes(self) -> npt.NDArray[np.float32]:
        """This worker's wishes, float32 [3], to be summed over all workers."""
        change = self._commits is not None and self._commits.change_wanted
        return np.array([self._stop.asked, self._write_is_due() or self._commit_is_due(), change], np.float32)

    def steps_done(self, count: int) -> None:
        """Counts steps since the run began in this process."""
        self._steps += count

    def keep(self, make: Callable[[], Checkpoint], *, must: bool, values: Mapping[str, float] | None = None) -> None:
        """Makes a checkpoint, on all workers, and hands it on where it is due; one that `must` be kept always is."""
        begun_s = time.monotonic()
        made = make()
        checkpoint = Checkpoint(made.position, {**self._describe(), **made.about}, made.arrays)
        if self._commits is not None:
            self._commits.keep(checkpoint)
            self._committed_s = time.monotonic()
            self._commit_s = max(COMMIT_S, (self._committed_s - begun_s) / COMMIT_SHARE)
        if self._writer is not None and (must or self._write_is_due()):
            self._writer.submit(checkpoint, values, must=must)
            self._written_s, self._written_steps = time.monotonic(), self._steps

    def _write_is_due(self) -> bool:
        if self._writer is None:
            return False
        if self._every.steps is not None:
            return self._steps - self._written_steps >= self._every.steps
        return self._every.seconds is not None and time.monotonic() - self._written_s >= self._every.seconds

    def _commit_is_due(self) -> bool:
        return self._commits is not None and time.monotonic() - self._committed_s >= self._commit_s
