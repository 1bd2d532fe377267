"""Signals that ask a run to stop: noticed at the next superstep, where the run can write a checkpoint first."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from disttrain.threads import DaemonPool

ASKING = (signal.SIGTERM, signal.SIGINT)
# One Ctrl-C can arrive twice, from the terminal and from a launcher; a second one that is typed comes later.
SAME_S = 0.5


class StopSignals:
    """While entered, the first SIGTERM or SIGINT only asks the run to stop.

    A second SIGINT calls the handler that was set before, which ends the run at once.
    """

    def __init__(self, on_asked: Callable[[str], None] = lambda name: None) -> None:
        """`on_asked` is called with the first signal's name, in a thread, since a signal may interrupt a print."""
        self._on_asked = on_asked
        self._thread: DaemonPool | None = None
        self._before: dict[int, Any] = {}
        self._asked_s: float | None = None

    @property
    def asked(self) -> bool:
        """Whether the run is to stop."""
        return self._asked_s is not None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._thread = DaemonPool(1, "signals")
            self._before = {number: signal.signal(number, self._handle) for number in ASKING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._thread is not None:
            self._thread.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self._asked_s is None:
            self._asked_s = now_s
            self._tell(signal.Signals(number).name)
        elif number == signal.SIGINT and now_s - self._asked_s > SAME_S:
            before = self._before[number]
            if callable(before):
                before(number, frame)

    def _tell(self, name: str) -> None:
        if self._thread is not None:
            self._thread.submit(lambda: self._on_asked(name))
