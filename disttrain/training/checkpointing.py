"""Decides when checkpoints are due, and collects the workers' votes to stop, checkpoint or regroup."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from disttrain.checkpoints.commits import Commits, WorldChanged
from disttrain.checkpoints.file import Checkpoint
from disttrain.checkpoints.record import RunRecord
from disttrain.checkpoints.writer import CheckpointWriter
from disttrain.errors import Stopped
from disttrain.option_types import Every
from disttrain.training.progress import RunProgress
from disttrain.training.stop_signals import StopSignals

COMMIT_S = 1.0  # how much of an elastic run's work is done again at most when a worker is lost
COMMIT_SHARE = 0.02  # of the time may go into commits


@dataclass(frozen=True)
class Contents:
    """What a run's checkpoint holds besides its arrays.

    `callbacks` has an entry for each callback, and `state` the names of the arrays that are the training's own; the
    other arrays are the callbacks'.
    """

    record: RunRecord
    progress: RunProgress
    callbacks: Sequence[Mapping[str, Any]]
    state: Sequence[str]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Contents:
        """Those of a checkpoint.

        Raises:
            KeyError: or another error of the kind, if something else than a run wrote the checkpoint.
        """
        about = checkpoint.about
        progress = RunProgress.from_json(about["standing"])
        return cls(RunRecord.of(checkpoint), progress, list(about["callbacks"]), sorted(about["state"]))

    def to_json(self) -> dict[str, Any]:
        """As JSON holds them."""
        return {
            "run": self.record.to_json(),
            "standing": self.progress.to_json(),
            "callbacks": list(self.callbacks),
            "state": sorted(self.state),
        }


@dataclass(frozen=True)
class Decision:
    """What the workers decided to do at a border: the same on all of them once their votes are summed."""

    stop: bool = False
    checkpoint: bool = False
    regroup: bool = False

    @classmethod
    def of(cls, votes: npt.NDArray[np.float32]) -> Decision:
        """What any worker voted for, from the sum of all workers' votes, float32 [3]."""
        return cls(*(bool(vote > 0) for vote in votes))

    @property
    def needs_checkpoint(self) -> bool:
        """Whether what is trained so far is to be kept."""
        return self.stop or self.checkpoint or self.regroup


def leave_if_decided(decision: Decision, progress: RunProgress) -> None:
    """Ends the training where all is kept, if that was decided.

    Raises:
        Stopped: if the run is to stop.
        WorldChanged: if it is to go on in another world.
    """
    if decision.stop:
        raise Stopped(f"stopped in epoch {progress.epoch}, after step {progress.current.steps:,}")
    if decision.regroup:
        raise WorldChanged


class Checkpointing:
    """One worker's part in keeping the run: its votes, and where a checkpoint goes.

    The leader decides when one is due. All workers take part in making it; the leader's goes to the `writer`, and in an
    elastic run each worker commits its own copy.
    """

    def __init__(
        self, every: Every, writer: CheckpointWriter | None, stop: StopSignals, commits: Commits | None = None
    ) -> None:
        """`writer` is the leader's alone; `commits` are those of an elastic run."""
        self._every = every
        self._writer = writer
        self._stop = stop
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
        """This worker's votes for each field of a Decision, float32 [3], to be summed over all workers."""
        regroup = self._commits is not None and self._commits.change_wanted
        return np.array([self._stop.asked, self._write_is_due() or self._commit_is_due(), regroup], np.float32)

    def steps_done(self, count: int) -> None:
        """Counts steps since the run began in this process."""
        self._steps += count

    def keep(
        self, checkpoint: Checkpoint, made_in_s: float, *, must: bool, values: Mapping[str, float] | None = None
    ) -> None:
        """Commits a checkpoint, and has it written if one is due or if it `must` be.

        Args:
            checkpoint: made by all workers together; its arrays are not written to any more.
            made_in_s: how long that took.
            must: whether it is written whether or not one is due, and always kept.
            values: losses and metrics of an epoch that has ended, by which the best is chosen.
        """
        begun_s = time.monotonic() - made_in_s
        if self._commits is not None:
            self._commits.keep(checkpoint)
            self._committed_s = time.monotonic()
            self._commit_s = max(COMMIT_S, (self._committed_s - begun_s) / COMMIT_SHARE)
        if self._writer is not None and (must or self._write_is_due()):
            self._writer.submit(checkpoint, values, must=must)
            self._written_s, self._written_steps = time.monotonic(), self._steps

    def wait(self, timeout_s: float) -> None:
        """Waits until what was handed to the writer is written; raises what kept it from that."""
        if self._writer is not None:
            self._writer.wait(timeout_s)

    def _write_is_due(self) -> bool:
        if self._writer is None:
            return False
        if self._every.steps is not None:
            return self._steps - self._written_steps >= self._every.steps
        return self._every.seconds is not None and time.monotonic() - self._written_s >= self._every.seconds

    def _commit_is_due(self) -> bool:
        return self._commits is not None and time.monotonic() - self._committed_s >= self._commit_s
