"""Which process on which machine a worker is, so that it can be named, looked at and ended without any mistake."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

FLUSH_S = 1.0  # how long ending waits for a screen or a pipe that takes nothing

_START_FIELD = 19  # of /proc/PID/stat, counted from the state, which follows the name in brackets


@dataclass(frozen=True)
class Process:
    """A worker's process. `machine` tells boots and containers apart, `started` a process from a later one of its
    number; both are empty where the system does not tell, and then nobody touches the process."""

    host: str
    pid: int
    machine: str = ""
    started: str = ""

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}"


def this_process() -> Process:
    """The calling process."""
    pid = os.getpid()
    return Process(socket.gethostname(), pid, _machine(), _stat(pid)[1])


def is_running(process: Process) -> bool:
    """Whether it is seen on this machine, neither ended nor stopped."""
    return _is_seen(process) and _stat(process.pid)[0] not in "TtZX"


def is_there(process: Process) -> bool:
    """Whether it is seen on this machine and has not ended; it may be stopped."""
    return _is_seen(process) and _stat(process.pid)[0] not in "ZX"


def kill(process: Process) -> bool:
    """Ends a process of this machine at once, stopped or not; False for one that is elsewhere, or no longer."""
    if not _is_seen(process):
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process.pid, signal.SIGKILL)
        return True
    return False


def end_at_once(exit_code: int) -> NoReturn:
    """Ends this process, whatever its main thread is in, and the processes that it made with `multiprocessing`."""
    for child in multiprocessing.active_children():
        with suppress(OSError, ValueError):
            child.kill()
    within(FLUSH_S, lambda: (sys.stdout.flush(), sys.stderr.flush()))
    os._exit(exit_code)


def within(seconds: float, work: Callable[[], object]) -> None:
    """Does what may block for ever, such as writing to a pipe that nobody reads, and waits for it only so long."""

    def attempt() -> None:
        with suppress(OSError, ValueError):
            work()

    thread = threading.Thread(target=attempt, name="last-words", daemon=True)
    thread.start()
    thread.join(seconds)


def _is_seen(process: Process) -> bool:
    is_here = bool(process.machine and process.started) and process.machine == _machine()
    return is_here and process.started == _stat(process.pid)[1]


def _machine() -> str:
    """This boot of this machine, and the namespace in which process numbers mean what they say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """A process's state, one letter, and when it started; empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", ""
    return fields[0], fields[_START_FIELD]
