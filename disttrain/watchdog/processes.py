"""Identifies a worker's process and its machine, so that it can be named, checked and killed without mistake."""

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

FLUSH_S = 1.0  # how long ending waits for a terminal or a pipe that accepts no output

_START_FIELD = 19  # of /proc/PID/stat, counted from the state, which follows the name in parentheses


@dataclass(frozen=True)
class Process:
    """A worker's process.

    `machine` tells boots and containers apart; `started` tells a process from a later one with the same number. Both
    are empty where the system does not tell, and then the process is never checked or killed.
    """

    host: str
    pid: int
    machine: str = ""
    started: str = ""

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}"


def this_process() -> Process:
    """Returns the calling process."""
    pid = os.getpid()
    return Process(socket.gethostname(), pid, _machine(), _stat(pid)[1])


def is_running(process: Process) -> bool:
    """Returns whether a process is seen on this machine, neither ended nor stopped."""
    return _is_seen(process) and _stat(process.pid)[0] not in "TtZX"


def is_there(process: Process) -> bool:
    """Returns whether a process is seen on this machine and has not ended; it may be stopped."""
    return _is_seen(process) and _stat(process.pid)[0] not in "ZX"


def kill(process: Process) -> bool:
    """Kills a process of this machine, stopped or not; returns False if it is elsewhere, has ended or is not ours."""
    if not _is_seen(process):
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process.pid, signal.SIGKILL)
        return True
    return False


def end_at_once(exit_code: int) -> NoReturn:
    """Ends this process, whatever its main thread is doing, and the processes that it made with `multiprocessing`."""
    for child in multiprocessing.active_children():
        with suppress(OSError, ValueError):
            child.kill()
    within(FLUSH_S, lambda: (sys.stdout.flush(), sys.stderr.flush()))
    os._exit(exit_code)


def within(seconds: float, work: Callable[[], object]) -> None:
    """Does work that may block forever, such as writing to a full pipe, and waits at most `seconds` for it."""

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
    """Returns what identifies this boot of this machine and the namespace of its process numbers; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """Returns a process's state, one letter, and when it started; the state is X if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", ""
    return fields[0], fields[_START_FIELD]
