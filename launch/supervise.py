#!/usr/bin/env python3
"""Runs horovodrun, mpirun or orted: signals let the workers write a checkpoint, none hangs, the exit code is theirs.

Asked to stop, mpirun kills its workers after one second and horovodrun after five, and both end with 1. So the
signal goes to the workers of this machine instead: when one is asked, all write a checkpoint and end with 75. An
elastic run is asked by its launcher, as workers that are asked alone leave the others to go on.

When a host is cut off, mpirun here and its daemon orted there wait for each other for ever, though all workers have
ended; and horovodrun that is asked to end while it waits for hosts goes on waiting. What hangs is killed.

Asked to stop, horovodrun may also end with 0, as its `safe_shell_exec` waits for a worker in two threads, and what the
one is told of it is 0 for the other; or with 137, as it kills the shell above a worker that has just ended. So a
worker's own word that it stopped is worth more than 137, and 0 becomes 75: the same command tells then whether the run
had finished.
"""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from time import monotonic
from types import FrameType

import psutil

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
WORKERS_S = 330.0  # what workers have that are asked: they themselves wait 300 s for their last checkpoint
LAUNCHER_S = 20.0  # what the launcher has that is asked, or whose workers have ended: horovodrun takes 5 to 15
POLL_S = 2.0  # a look at all processes takes milliseconds
HUNG, STOPPED, TERMINATED = 7, 75, 143
SAYS_STOPPED = re.compile(rb"disttrain: .*stopped in epoch \d+, after step [\d,]+; to go on: ")  # its exit code is 75
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1  # of linux/prctl.h: the signal that a process gets when its parent is gone
PR_SET_CHILD_SUBREAPER = 36  # whose parent is gone comes to this process, and is found


class Launcher:
    """The launcher's process, and the workers below it on this machine."""

    def __init__(self, command: list[str]) -> None:
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
        self._is_elastic = "--host-discovery-script" in command
        self._is_asked = self._is_launcher_asked = self._is_killed = self._has_stopped = False
        self._deadline_s = float("inf")
        self._told: list[int] = []  # exit codes of workers
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C must not reach the launcher
            preexec_fn=self._prepare,
        )
        for number in ASKING:
            signal.signal(number, self._ask)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)

    def wait(self) -> int:
        """Until it has ended or was killed; the exit code of the first worker that failed, where that is told."""
        relay, ended = threading.Thread(target=self._pass_on, daemon=True), threading.Event()
        relay.start()
        threading.Thread(target=self._watch, args=(ended,), daemon=True).start()
        code = self.process.wait()
        ended.set()
        relay.join(5)  # what a worker left behind may hold the pipe open
        if self._is_launcher_asked and (self._has_stopped or code == 0):
            return STOPPED
        if code == 1 and self._told:
            return self._told[-1]
        if self._is_killed:
            return TERMINATED if self._is_asked else HUNG
        return code if code >= 0 else 128 - code

    def _prepare(self) -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        """Hands a signal to the workers, or to the launcher where it must be."""
        at_once = self._is_elastic or (self._is_asked and number == signal.SIGINT)
        workers = [] if at_once else self._workers()
        for process in workers:
            process.terminate()
        if not workers:
            self._is_launcher_asked = True
            self.process.terminate()
        self._is_asked = True
        self._must_end_within(WORKERS_S if workers else LAUNCHER_S)

    def _workers(self) -> list[psutil.Process]:
        """Those of this machine that run."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if process.cmdline()[1:3] == ["-m", "disttrain"]:  # one that has ended has no command line
                    found.append(process)
        return found

    def _watch(self, ended: threading.Event) -> None:
        had_workers = False
        while not ended.wait(POLL_S):
            has_workers = bool(self._workers())
            if had_workers and not has_workers and not self._is_elastic:  # there, others may go on elsewhere
                self._must_end_within(LAUNCHER_S)
            had_workers = has_workers
            if monotonic() > self._deadline_s:
                self._kill()
                return

    def _must_end_within(self, seconds: float) -> None:
        self._deadline_s = min(self._deadline_s, monotonic() + seconds)

    def _kill(self) -> None:
        print("supervise: the launcher does not end, and is killed", file=sys.stderr, flush=True)
        self._is_killed = True
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                process.kill()

    def _pass_on(self) -> None:
        """Copies the launcher's stderr, and notes what workers say there, and the codes that horovodrun tells of."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
            if found := re.match(rb"Exit code: (\d+)$", line.rstrip()):
                self._told.append(int(found[1]))
            self._has_stopped |= SAYS_STOPPED.search(line) is not None


if __name__ == "__main__":
    sys.exit(Launcher(sys.argv[1:]).wait())
