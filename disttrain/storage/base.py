"""What an open file is to the rest: its size and fingerprint, and ranges of its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Protocol

Span = tuple[int, int]  # bytes [start, stop)
UNVERSIONED = "unversioned"  # ends the fingerprint of a file of which a store tells no more than the size


@dataclass(frozen=True)
class FileInfo:
    """A file as it is now. `fingerprint` differs when the content may: size and modification time, or size and ETag."""

    url: str
    size_bytes: int
    fingerprint: str


@dataclass(frozen=True)
class Patience:
    """How long to try a remote store: each attempt, and all of them together with the pauses between.

    The number of attempts is for a store that has never answered: one that has may be back in half a minute.
    """

    attempts: int = 5
    attempt_s: float = 30.0
    total_s: float = 90.0


PATIENCE = Patience()
PATIENCE_AGAIN = Patience(attempts=1000)  # with a store that has answered this process before


def hint_of_pattern(url: str) -> str:
    """What to say besides where a path that is not there would match several."""
    return "; patterns are not expanded: name one file, into which you join the others" if set("*?[") & set(url) else ""


class Reader(Protocol):
    """An open file that any thread may read ranges of; a context manager, and `close` may be called twice."""

    info: FileInfo
    block_bytes: int  # what one read should ask for

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes from `offset` on, all of it, or raise StorageError or FileChanged."""

    def close(self) -> None:
        """Let the file go and wake the threads that still wait for its bytes."""

    def __enter__(self) -> Reader: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Directory(Protocol):
    """A directory of files, local or of a store, each written whole or not at all."""

    def names(self) -> list[str]:
        """The names of all files; none where there is no directory."""

    def put(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Write a file whole or not at all."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def close(self) -> None:
        """Let go."""
