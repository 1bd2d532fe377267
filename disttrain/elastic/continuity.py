"""What differs between a run in one world and an elastic one, which goes on from world to world."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Protocol

from disttrain.checkpoints.commits import Change, Commits, RunDefaults, WorldChanged
from disttrain.checkpoints.file import Checkpoint
from disttrain.checkpoints.record import RunRecord
from disttrain.distributed.backend import SIGNAL_SPREAD_S, Backend
from disttrain.distributed.launched import launch_of
from disttrain.errors import Stopped
from disttrain.training.stop_signals import StopSignals


class Continuity(Protocol):
    """How a run in this world follows on another one, and what it leaves to the next."""

    launch: str  # what all workers of an elastic run have in common; empty in any other

    @property
    def commits(self) -> Commits | None:
        """Those of an elastic run."""

    @property
    def is_elastic(self) -> bool:
        """Whether another world may follow."""

    @property
    def last_commit(self) -> Checkpoint | None:
        """Where this world goes on from, if there was another one before."""

    @property
    def change(self) -> Change | None:
        """How the world before this one ended, if there was one."""

    def settle(self, own: RunDefaults, backend: Backend) -> RunDefaults:
        """Returns the run's defaults: `own`, or those that its first world settled. A collective."""

    def stop_signals(self, stack: ExitStack, on_asked: Callable[[str], None], *, catches: bool) -> StopSignals:
        """Returns the signals that ask the run to stop; with `catches` they are caught until `stack` is closed."""

    def leave_or_regroup(self, backend: Backend) -> None:
        """Ends the workers that were asked to stop; others may go on in another world. A collective."""


class FixedRun:
    """A run whose workers stay the same."""

    launch = ""
    commits: Commits | None = None
    is_elastic = False
    last_commit: Checkpoint | None = None
    change: Change | None = None

    def settle(self, own: RunDefaults, backend: Backend) -> RunDefaults:
        """Returns `own`."""
        return own

    def stop_signals(self, stack: ExitStack, on_asked: Callable[[str], None], *, catches: bool) -> StopSignals:
        """Returns signals that only ask if the run writes checkpoints; `on_asked` tells the user."""
        stop = StopSignals(on_asked)
        if catches:
            stack.enter_context(stop)
        return stop

    def leave_or_regroup(self, backend: Backend) -> None:
        """Does nothing: all workers end."""


class ElasticRun:
    """A run whose workers come and go: its commits and its signals outlast its worlds."""

    is_elastic = True

    def __init__(self, environ: Mapping[str, str], commits: Commits, stop: StopSignals) -> None:
        """`environ` is the one that `horovodrun` set."""
        self.launch = launch_of(environ)
        self.commits = commits
        self._stop = stop

    @property
    def last_commit(self) -> Checkpoint | None:
        """The last one, of whatever world."""
        return self.commits.last

    @property
    def change(self) -> Change | None:
        """How the world before this one ended."""
        return self.commits.change

    def settle(self, own: RunDefaults, backend: Backend) -> RunDefaults:
        """Returns those of the last commit's run or, without a commit, those of the leader of the first world."""
        if self.commits.last is not None:
            record = RunRecord.of(self.commits.last)
            return RunDefaults(str(record.output), record.num_shards or own.num_shards)
        self.commits.defaults = self.commits.defaults or backend.gather(own)[0]
        return self.commits.defaults

    def stop_signals(self, stack: ExitStack, on_asked: Callable[[str], None], *, catches: bool) -> StopSignals:
        """Returns those that are caught from the run's start to its end."""
        return self._stop

    def leave_or_regroup(self, backend: Backend) -> None:
        """Ends the workers that were asked to stop; where others were not, those go on without them.

        Raises:
            Stopped: on a worker that leaves others behind.
            WorldChanged: on a worker that goes on.
        """
        time.sleep(SIGNAL_SPREAD_S)
        asked = self._stop.asked
        if all(backend.gather(asked)):
            return
        if asked:
            raise Stopped("this worker was asked to stop, and leaves; the others go on", is_shared=False)
        raise WorldChanged
