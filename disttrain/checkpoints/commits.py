"""The state that an elastic run goes on from when workers come or go, kept in each worker's memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from disttrain.checkpoints.file import Checkpoint, Position


class WorldChanged(Exception):  # not an error: how training stops at an agreed border, to go on in another world
    """All workers have stopped at the same superstep border, because workers are to come or go."""


@dataclass(frozen=True)
class Change:
    """How the world before this one ended: `num_before` workers, at `began_s` of this process's monotonic clock.

    `was_loss`: a worker was lost, rather than all having agreed that workers come or go.
    """

    was_loss: bool
    num_before: int
    began_s: float

    @property
    def seconds(self) -> float:
        """Since then."""
        return monotonic() - self.began_s

    def why(self, num_workers: int) -> str:
        """What happened, now that there are `num_workers`."""
        if self.was_loss:
            num_lost = self.num_before - num_workers
            return f"Lost {num_lost} workers" if num_lost > 1 else "Lost a worker"
        if num_workers == self.num_before:
            return "Hosts came or went"
        num_moved = abs(num_workers - self.num_before)
        who = f"{num_moved} workers" if num_moved > 1 else "A worker"
        return f"{who} {'joined' if num_workers > self.num_before else 'left'}"

    def news(self, num_workers: int, position: Position | None) -> str:
        """What a user is told once all can go on from `position`, that of the last commit."""
        where = f"epoch {position.epoch}, step {position.step:,}" if position is not None else "the beginning"
        workers = f"{num_workers} workers" if num_workers > 1 else "1 worker"
        before = f" instead of {self.num_before}" if num_workers != self.num_before else ""
        return f"{self.why(num_workers)}: going on from {where} with {workers}{before}, after {self.seconds:.1f} s"


@dataclass(frozen=True)
class RunDefaults:
    """What a run's first world settles for those that follow it, where no option does."""

    output: str
    num_shards: int


class Commits:
    """The last commit of one worker, and whether it was told that hosts came or went; any thread may tell."""

    def __init__(self) -> None:
        self.last: Checkpoint | None = None
        self.defaults: RunDefaults | None = None  # the same on all workers, or None on all
        self.change: Change | None = None  # that led to the present world; the same on all workers
        self.abandon: Callable[[], None] = lambda: None
        """Ends the connections of this world's workers: what waits for another one fails at once, on both sides."""
        self._wanted = threading.Event()

    def keep(self, checkpoint: Checkpoint) -> None:
        """Commits: after a change, training goes on from here. Its arrays must not be written to any more.

        All workers call it at the same borders. Where one dies in between, the newest commit that is left is taken.
        """
        self.last = checkpoint

    @property
    def change_wanted(self) -> bool:
        """Whether `horovodrun` told this worker of hosts that came or go.

        It tells only one worker, so all must agree (one flag in a collective). Then each one commits and raises
        WorldChanged at the same border: nothing is done twice.
        """
        return self._wanted.is_set()

    def want_change(self) -> None:
        """Called when hosts came or go."""
        self._wanted.set()

    def changed(self) -> None:
        """Called when the world has just been made anew: what was wanted is done."""
        self._wanted.clear()
