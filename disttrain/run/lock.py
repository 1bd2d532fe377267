"""Locks a run's directory: one run at a time uses it, on whatever host, on a local disk or in a store.

The holder keeps a record in the directory, and rewrites it every few seconds. A run that finds such a record checks
whether the holder's process still runs, if it is on the same machine. Otherwise it waits to see whether the record
changes. If the holder does not run, or the record does not change, the run takes the directory over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from disttrain.errors import DataError, DisttrainError, StorageError, UsageError
from disttrain.storage.local import FULL, local_path, remove_parts
from disttrain.storage.open import open_directory, read_whole
from disttrain.watchdog.processes import Process, end_at_once, is_there, this_process

RECORD = "in-use.json"


@dataclass(frozen=True)
class Pace:
    """How often a holder writes its record, and after how long without a change it counts as gone."""

    beat_s: float
    stale_s: float
    settle_s: float  # to wait after writing, so that of two runs that write at once each sees the other's record


ON_DISK, IN_STORE = Pace(3.0, 12.0, 0.0), Pace(15.0, 60.0, 1.0)


@dataclass(frozen=True)
class Holder:
    """A run that holds a directory: its leader's process, since when, and a token that tells it from other runs.

    `launch` is the same for all workers of an elastic run, any of which may become the leader.
    """

    process: Process
    since: str
    token: str
    launch: str = ""
    beat: int = 0

    def __str__(self) -> str:
        return f"{self.process}, since {self.since}"

    @classmethod
    def from_json(cls, text: bytes) -> Holder | None:
        """Reads what `to_json` returned; returns None for anything else."""
        try:
            found = json.loads(text)
            return cls(**{**found, "process": Process(**found["process"])})
        except (ValueError, TypeError, KeyError):
            return None

    def to_json(self) -> bytes:
        """Returns the record as one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"


class RunLock:
    """Holds a directory while it is open; a context manager, whose `close` may be called twice.

    A directory that it had to create is removed at the end if it is empty.
    """

    def __init__(
        self,
        url: str,
        say: Callable[[str], None],
        launch: str = "",
        *,
        pace: Pace | None = None,
        on_loss: Callable[[Holder], None] | None = None,
    ) -> None:
        """Takes the directory, and keeps it by rewriting the record in a thread.

        Args:
            url: the directory, local or of a store.
            say: tells the user that a directory was taken over, and from whom.
            launch: what identifies an elastic run, else empty.
            pace: for tests; by default as fits a disk or a store.
            on_loss: called in a thread when another run took the directory over; by default the process ends.

        Raises:
            UsageError: if another run holds it, or if it cannot be written.
            StorageError: if a store does not answer, or a disk is full.
        """
        self.url = url
        self._path = local_path(url)
        self._pace = pace or (IN_STORE if self._path is None else ON_DISK)
        self._on_loss = on_loss or self._end
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._own = Holder(this_process(), now, secrets.token_hex(8), launch)
        self._directory = open_directory(url)
        if self._path is not None:
            remove_parts(self._path, re.escape(RECORD), with_living_writers=True)
        self._made = [] if self._path is None else make_writable(self._path)
        self._closed = threading.Event()
        self._is_ours = False
        self._lock = threading.Lock()
        try:
            self._take(say)
        except BaseException:
            self._close_directory()
            raise
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Releases the directory; the record is removed if it is still this run's."""
        self._closed.set()
        with self._lock:
            if not self._is_ours:
                return
            self._is_ours = False
            with contextlib.suppress(DisttrainError, OSError):
                found = self._read()
                if found is not None and found.token == self._own.token:
                    self._directory.remove(RECORD)
            self._close_directory()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, say: Callable[[str], None]) -> None:
        while True:
            found = self._read()
            if found is not None and self._is_held(found):
                raise self._refused(found)
            with self._alone_on_this_host():
                if self._read() != found:  # another came first
                    continue
                self._write()
                time.sleep(self._pace.settle_s)
                seen = self._read()
            if seen is not None and seen.token != self._own.token:
                raise self._refused(seen)
            self._is_ours = True
            if found is not None and not self._is_same_launch(found):
                say(f"{self.url}: was held by {found}, which is gone; taken over")
            return

    def _is_same_launch(self, found: Holder) -> bool:
        return bool(self._own.launch) and found.launch == self._own.launch

    def _is_held(self, found: Holder) -> bool:
        if self._is_same_launch(found):
            return False
        if found.process.machine == self._own.process.machine and found.process.started:
            return is_there(found.process)
        deadline_s = time.monotonic() + self._pace.stale_s
        while time.monotonic() < deadline_s:
            time.sleep(min(1.0, self._pace.beat_s / 3))
            seen = self._read()
            if seen != found:
                return seen is not None
        return False

    def _refused(self, holder: Holder) -> UsageError:
        return UsageError(
            f"{self.url}: is in use by another run ({holder}); wait for it, end it, or name another directory"
        )

    @contextlib.contextmanager
    def _alone_on_this_host(self) -> Iterator[None]:
        """Keeps two processes of one host from taking a directory at the same moment."""
        if self._path is None:
            yield
            return
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _beat(self) -> None:
        """Rewrites the record until closed; calls `on_loss` and ends once another run has taken the directory over.

        A store that does not answer for a while changes nothing.
        """
        while not self._closed.wait(self._pace.beat_s):
            other = None
            with self._lock, contextlib.suppress(DisttrainError, OSError):
                if not self._is_ours:
                    return
                found = self._read()
                if found is None or found.token == self._own.token:
                    self._own = replace(self._own, beat=self._own.beat + 1)
                    self._write()
                else:
                    other, self._is_ours = found, False
            if other is not None:
                self._on_loss(other)
                return

    def _end(self, holder: Holder) -> None:
        message = f"disttrain: {self.url}: was taken over by {holder}, as this run gave no sign of life; this run ends"
        with contextlib.suppress(OSError):
            os.write(2, message.encode() + b"\n")
        end_at_once(UsageError.exit_code)

    def _read(self) -> Holder | None:
        if self._path is not None:
            try:
                return Holder.from_json((self._path / RECORD).read_bytes())
            except FileNotFoundError:
                return None
            except OSError as error:
                raise UsageError(f"{self.url}: cannot be read: {error.strerror}; name another directory") from error
        try:
            return Holder.from_json(read_whole(f"{self.url}/{RECORD}"))
        except (UsageError, DataError):  # not there, or just being replaced
            return None

    def _write(self) -> None:
        text = self._own.to_json()

        def write(stream: BinaryIO) -> None:
            stream.write(text)

        self._directory.put(RECORD, write)

    def _close_directory(self) -> None:
        self._directory.close()
        remove_empty(self._made)


def remove_empty(directories: Iterable[Path]) -> None:
    """Removes directories, the innermost first, that hold nothing."""
    for directory in directories:
        with contextlib.suppress(OSError):  # something is in it
            directory.rmdir()


def make_writable(path: Path) -> list[Path]:
    """Creates a directory and checks that it can be written; returns the directories created, the innermost first."""
    made = [parent for parent in (path, *path.parents) if not parent.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        kind = StorageError if error.errno in FULL else UsageError
        raise kind(f"--output {path}: cannot be written: {error.strerror}; name another directory") from error
    return made
