"""The interface of an open file: its size and fingerprint, and ranges of its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import BinaryIO, Protocol

Span = tuple[int, int]  # bytes [start, stop)
SLOW_BYTES_PER_S = 2_000_000  # whole objects that take longer are given up
UNVERSIONED = "unversioned"  # ends the fingerprint of a file for which the store reports only the size


@dataclass(frozen=True)
class FileInfo:
    """A file's state: `fingerprint` (size and modification time, or size and ETag) changes if the content may have."""

    url: str
    size_bytes: int
    fingerprint: str


def stored_fingerprint(info: FileInfo) -> str:
    """Returns the fingerprint of a file as it is stored; that of a converted one begins with its encoding and a bar."""
    return info.fingerprint.rpartition("|")[2]


@dataclass(frozen=True)
class Patience:
    """Limits on calls to a remote store: for each attempt, and for all attempts together with the pauses between them.

    `attempts` limits only calls to a store that has never answered: one that has may be back in half a minute.
    """

    attempts: int = 5
    attempt_s: float = 30.0
    total_s: float = 90.0

    def for_bytes(self, num_bytes: int) -> Patience:
        """Returns the limits on an upload or a download of a whole object of this size."""
        extra_s = num_bytes / SLOW_BYTES_PER_S
        return replace(self, attempt_s=self.attempt_s + extra_s, total_s=self.total_s + 2 * extra_s)

    def within(self, timeout_s: float) -> Patience:
        """Returns limits that are used up before a worker without progress is ended; 0 stands for no such time."""
        if not timeout_s:
            return self
        total_s = min(self.total_s, 0.7 * timeout_s)
        return replace(self, attempt_s=min(self.attempt_s, total_s / 3), total_s=total_s)


PATIENCE = Patience()
PATIENCE_AGAIN = Patience(attempts=1000)  # with a store that has answered this process before


class Reader(Protocol):
    """An open file whose ranges any thread may read; a context manager, whose `close` may be called twice."""

    info: FileInfo
    block_bytes: int  # what one read should ask for

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fills the whole buffer with the bytes from `offset` on; raises StorageError or FileChanged if it cannot."""

    def close(self) -> None:
        """Closes the file and wakes the threads that still wait for its bytes."""

    def __enter__(self) -> Reader: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Directory(Protocol):
    """What a directory of files must offer, local or in a store: each file is written whole or not at all."""

    def names(self) -> list[str]:
        """Returns the names of all files; none if the directory does not exist."""

    def put(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Writes a file whole or not at all."""

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""

    def close(self) -> None:
        """Releases the directory."""
