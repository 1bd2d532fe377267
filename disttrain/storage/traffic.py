"""Counts what this process fetches from stores: bytes, and the requests that they took."""

from __future__ import annotations

import threading
from typing import NamedTuple


class Fetched(NamedTuple):
    """What was fetched: bytes of files, and the requests for them, not counting those for sizes and names."""

    num_bytes: int
    num_requests: int


class Traffic:
    """A count that all threads of a process add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fetched = Fetched(0, 0)

    def add(self, num_bytes: int) -> None:
        """Counts one answer of so many bytes."""
        with self._lock:
            self._fetched = Fetched(self._fetched.num_bytes + num_bytes, self._fetched.num_requests + 1)

    def take(self) -> Fetched:
        """Returns what was counted since the last call."""
        with self._lock:
            fetched, self._fetched = self._fetched, Fetched(0, 0)
            return fetched


TRAFFIC = Traffic()
