"""Ends a worker whose run does not start, such as one that waits in MPI for a worker that never comes.

Such a wait has no end, the main thread handles no signal meanwhile, and the workers do not watch each other yet. So
each worker has a timer. It runs from before the import of TensorFlow, which takes longest, until the watchdog runs.
When the time is over, every worker that waits says so; the one that says nothing is the one that is missing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from types import TracebackType

from disttrain import activity
from disttrain.distributed.launched import launched_by, launched_elastic, launched_rank
from disttrain.errors import HungError
from disttrain.watchdog.processes import end_at_once, this_process, within

POLL_S = 0.5
IMPORT_S = 120.0  # least timeout of TensorFlow's import: it takes 3 s, on a slow disk or a busy machine many times that
SPEAK_S = 2.0
OTHERS_SPEAK_S = 2.0  # for the others to report too: once one worker ends, launchers end all


def start_timer(timeout_s: float, environ: Mapping[str, str]) -> StartTimer:
    """Returns a timer that ends a Horovod worker that waits too long; it is off where the wait has its own limit."""
    is_timed = launched_by(environ) == "horovod" and not launched_elastic(environ)
    return StartTimer(launched_rank(environ) or 0, timeout_s if is_timed else 0)


class StartTimer:
    """Runs from the beginning of a `with` statement until `stop` is called or the statement ends."""

    def __init__(self, rank: int, timeout_s: float) -> None:
        """`timeout_s`: how long to wait for other workers; 0 waits for ever."""
        self._rank = rank
        self._timeout_s = timeout_s
        self._is_over = threading.Event()

    def stop(self) -> None:
        """Stops the timer; called when the workers have met. A second call does nothing."""
        self._is_over.set()

    def __enter__(self) -> StartTimer:
        self._screen = os.dup(2)  # stderr is held back while TensorFlow is imported
        if self._timeout_s:
            threading.Thread(target=self._run, name="start-timer", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        os.close(self._screen)

    def _run(self) -> None:
        while not self._is_over.wait(POLL_S):
            waited_s = time.monotonic() - activity.last_progress_s()
            if waited_s >= (self._timeout_s if activity.waits_for_peers() else max(self._timeout_s, IMPORT_S)):
                self._end(waited_s)

    def _end(self, waited_s: float) -> None:
        """Reports that this worker waits; ends the process unless the run starts while the others report."""
        line = (
            f"disttrain: rank {self._rank} ({this_process()}) waited {waited_s:.0f} s for the run to start, and is "
            f"{activity.describe()}; a rank that prints no such line is stopped or has not started\n"
        )
        within(SPEAK_S, lambda: os.write(self._screen, line.encode(errors="replace")))
        if not self._is_over.wait(OTHERS_SPEAK_S):
            end_at_once(HungError.exit_code)
