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
from disttrain.config.option_types import Every
from disttrain.errors import Stopped
from disttrain.training.progress import RunProgress
from disttrain.training.stop_signals import StopSignals

COMMIT_S = 1.0  # between an elastic run's commits: the work that is repeated at most when a worker is lost
COMMIT_SHARE = 0.02  # largest part of the run's time that may go into commits


@dataclass(frozen=True)
class Contents:
    """What a run's checkpoint holds besides its arrays.

    `callbacks` has an entry for each callback. `state` has the names of the arrays of the training state; the other
    arrays belong to callbacks.
    """

    record: RunRecord
    progress: RunProgress
    callbacks: Sequence[Mapping[str, Any]]
    state: Sequence[str]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Contents:
        """Reads the contents of a checkpoint.

        Raises:
            KeyError: or a similar error, if the checkpoint was not written by a run.
        """
        about = checkpoint.about
        progress = RunProgress.from_json(about["standing"])
        return cls(RunRecord.of(checkpoint), progress, list(about["callbacks"]), sorted(about["state"]))

    def to_json(self) -> dict[str, Any]:
        """Returns the contents as plain data for JSON."""
        return {
            "run": self.record.to_json(),
            "standing": self.progress.to_json(),
            "callbacks": list(self.callbacks),
            "state": sorted(self.state),
        }


@dataclass(frozen=True)
class Decision:
    """What the workers decided between two supersteps; the same on all of them, as it follows from summed votes."""

    stop: bool = False
    checkpoint: bool = False
    regroup: bool = False

    @classmethod
    def of(cls, votes: npt.NDArray[np.float32]) -> Decision:
        """Returns what any worker voted for, from the sum of all workers' votes, float32 [3]."""
        return cls(*(bool(vote > 0) for vote in votes))

    @property
    def needs_checkpoint(self) -> bool:
        """Whether the training so far has to be kept in a checkpoint."""
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
    """One worker's part in keeping checkpoints: its votes, and what it does with a checkpoint.

    The leader decides when a checkpoint is due. All workers take part in making it. The leader's copy goes to the
    `writer`, and in an elastic run each worker commits its own copy.
    """

    def __init__(
        self, every: Every, writer: CheckpointWriter | None, stop: StopSignals, commits: Commits | None = None
    ) -> None:
        """Takes the `writer`, which only the leader has, and the `commits` of an elastic run."""
        self._every = every
        self._writer = writer
        self._stop = stop
        self._commits = commits
        self._commit_s = COMMIT_S
        self._committed_s = self._written_s = time.monotonic()
        self._steps = self._written_steps = 0

    @property
    def wants_state(self) -> bool:
        """Whether this worker needs the captured state, to write or to commit it."""
        return self._writer is not None or self._commits is not None

    @property
    def every_worker_keeps(self) -> bool:
        """Whether all workers keep checkpoints, as in an elastic run, where any of them may become the leader."""
        return self._commits is not None

    @property
    def is_stopping(self) -> bool:
        """Whether this worker was asked to stop."""
        return self._stop.asked

    def votes(self) -> npt.NDArray[np.float32]:
        """Returns this worker's vote for each field of a Decision, float32 [3], to be summed over all workers."""
        regroup = self._commits is not None and self._commits.change_wanted
        return np.array([self._stop.asked, self._write_is_due() or self._commit_is_due(), regroup], np.float32)

    def steps_done(self, count: int) -> None:
        """Adds `count` to the steps that were taken in this process."""
        self._steps += count

    def keep(
        self, checkpoint: Checkpoint, made_in_s: float, *, must: bool, values: Mapping[str, float] | None = None
    ) -> None:
        """Commits a checkpoint in an elastic run, and hands it to the writer if one is due or if it `must` be written.

        Args:
            checkpoint: made by all workers together; its arrays no longer change.
            made_in_s: seconds that making it took.
            must: writes it even if none is due, and always keeps it.
            values: losses and metrics of an epoch that has ended, by which the best checkpoint is chosen.
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
        """Waits until what was handed to the writer is written; raises the error if writing failed."""
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
