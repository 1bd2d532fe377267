"""The state that an elastic run goes on from when workers come or go, kept in each worker's memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from disttrain.checkpoints.file import Checkpoint, Position


class WorldChanged(Exception):  # not an error: stops training at an agreed superstep, to go on in another world
    """All workers have stopped at the end of the same superstep, because workers are to come or go."""


@dataclass(frozen=True)
class Change:
    """How the world before this one ended, which had `num_before` workers.

    `began_s`: when it ended, on this process's monotonic clock. `was_loss`: a worker was lost; else all had agreed that
    workers come or go.
    """

    was_loss: bool
    num_before: int
    began_s: float

    @property
    def seconds(self) -> float:
        """Seconds since the previous world ended."""
        return monotonic() - self.began_s

    def why(self, num_workers: int) -> str:
        """Returns what happened, in words, now that there are `num_workers`."""
        if self.was_loss:
            num_lost = self.num_before - num_workers
            return f"Lost {num_lost} workers" if num_lost > 1 else "Lost a worker"
        if num_workers == self.num_before:
            return "The hosts changed"
        num_moved = abs(num_workers - self.num_before)
        who = f"{num_moved} workers" if num_moved > 1 else "A worker"
        return f"{who} {'joined' if num_workers > self.num_before else 'left'}"

    def news(self, num_workers: int, position: Position | None) -> str:
        """Returns what a user is told once all can go on from `position`, that of the last commit."""
        where = f"epoch {position.epoch}, step {position.step:,}" if position is not None else "the beginning"
        workers = f"{num_workers} workers" if num_workers > 1 else "1 worker"
        before = f" instead of {self.num_before}" if num_workers != self.num_before else ""
        return f"{self.why(num_workers)}: going on from {where} with {workers}{before}, after {self.seconds:.1f} s"


@dataclass(frozen=True)
class RunDefaults:
    """What a run's first world decides for all later ones, where no option does."""

    output: str
    num_shards: int


class Commits:
    """The last commit of one worker, and whether hosts came or went; any thread may report that."""

    def __init__(self) -> None:
        self.last: Checkpoint | None = None
        self.defaults: RunDefaults | None = None  # the same on all workers, or None on all
        self.change: Change | None = None  # the one that led to the current world; the same on all workers
        self.abandon: Callable[[], None] = lambda: None
        """Cuts this world's connections: a collective that waits for another worker fails at once, on both sides."""
        self._wanted = threading.Event()

    def keep(self, checkpoint: Checkpoint) -> None:
        """Commits a checkpoint: after a change, training goes on from it.

        Its arrays must not be written to any more. All workers call this at the end of the same supersteps. Where one
        dies in between, the newest commit that is left is taken.
        """
        self.last = checkpoint

    @property
    def change_wanted(self) -> bool:
        """Whether `horovodrun` told this worker that hosts came or went.

        It tells only one worker, so all must agree first (one flag in a collective). Then each one commits and raises
        WorldChanged at the end of the same superstep, so that no step is done twice.
        """
        return self._wanted.is_set()

    def want_change(self) -> None:
        """Records that hosts came or went."""
        self._wanted.set()

    def changed(self) -> None:
        """Records that a new world has just been made, which settles every change reported before."""
        self._wanted.clear()
