"""The state that an elastic run goes on from when workers come or go, kept in each worker's memory."""

from __future__ import annotations

import threading

from disttrain.checkpoint import Checkpoint


class WorldChanged(Exception):  # not an error: how training stops at an agreed border, to go on in another world
    """All workers have stopped at the same superstep border, because workers are to come or go."""


class Commits:
    """The last commit of one worker, and whether it was told that hosts came or go; any thread may tell."""

    def __init__(self) -> None:
        self.last: Checkpoint | None = None
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
