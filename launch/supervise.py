#!/usr/bin/env python3
"""Runs horovodrun or mpirun: signals let the workers write a checkpoint, and the exit code is the workers' own.

Asked to stop, mpirun kills its workers after one second and horovodrun after five, and both end with 1. So the
signal goes to the workers of this machine instead: when one is asked, all write a checkpoint and end with 75. An
elastic run is asked by its launcher, as workers that are asked alone leave the others to go on.
"""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import BinaryIO

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1  # of linux/prctl.h: the signal that a process gets when its parent is gone


def main(command: list[str]) -> int:
    """Runs the command to its end; returns the exit code of the first worker that failed, where that is told."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)

    def prepare() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    launcher = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a terminal's Ctrl-C must not reach the launcher
        preexec_fn=prepare,
    )
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        elastic = "--host-discovery-script" in command
        if elastic or (asked and number == signal.SIGINT) or not ask_workers(launcher.pid):
            launcher.terminate()
        asked = True

    for number in ASKING:
        signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    told: list[int] = []
    assert launcher.stderr is not None
    relay = threading.Thread(target=pass_on, args=(launcher.stderr, told), daemon=True)
    relay.start()
    code = launcher.wait()
    relay.join(5)  # what a worker left behind may hold the pipe open
    if code == 1 and told:
        return told[-1]
    return code if code >= 0 else 128 - code


def ask_workers(launcher: int) -> bool:
    """Sends SIGTERM to the workers on this machine; whether there are any."""
    import psutil

    asked = False
    for process in psutil.Process(launcher).children(recursive=True):
        try:
            if process.cmdline()[1:3] == ["-m", "disttrain"]:
                process.terminate()
                asked = True
        except psutil.Error:
            continue  # it has just ended
    return asked


def pass_on(stream: BinaryIO, told: list[int]) -> None:
    """Copies the launcher's stderr, and notes the exit codes that horovodrun tells of there."""
    for line in stream:
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
        if found := re.match(rb"Exit code: (\d+)$", line.rstrip()):
            told.append(int(found[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
