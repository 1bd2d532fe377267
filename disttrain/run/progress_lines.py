"""The progress that a run prints: a live line on a terminal, lines of text elsewhere."""

from __future__ import annotations

import math
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from disttrain.data.cache_eviction import show_bytes
from disttrain.run.console import show_number, show_rate, show_time, show_values
from disttrain.training.progress import EpochResult
from disttrain.training.reports import BytesFetched, EpochBegun, EpochEnded, Event, StepsDone, StepsSkipped

LINE_EVERY_S = 5.0
NOTEBOOK_EVERY_S = 0.2


class NotebookLine:
    """A line below a notebook's cell that changes in place, a few times a second."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown_s = 0.0

    def show(self, line: str, *, at_once: bool) -> None:
        """Shows a line instead of the one before; drops it if that came just now, unless it is to be seen `at_once`."""
        import IPython.display  # it is there where there is a notebook

        display: Any = IPython.display.display
        now_s = time.monotonic()
        if not at_once and now_s - self._shown_s < NOTEBOOK_EVERY_S:
            return
        self._shown_s = now_s
        content = {"text/plain": line}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


class ConsoleProgress:
    """Shows progress: a live line on a terminal and in a notebook, else a line every few seconds; and each epoch's."""

    def __init__(self, console: Console, *, epochs: int, num_steps: int, num_rows: int) -> None:
        """Of a run of so many epochs, each of so many steps and rows."""
        self._console = console
        self._epochs = epochs
        self._num_steps = num_steps
        self._num_rows = num_rows
        self._next_line_s: float | None = None
        self._skipped_in = 0  # the last epoch in which skipped steps were reported
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._notebook = NotebookLine() if console.is_jupyter else None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[state]}"),
                console=console, transient=True,
            )  # fmt: skip
            self._live.start()

    def report(self, event: Event) -> None:
        """Shows it."""
        match event:
            case EpochBegun():
                self._begin_epoch(event)
            case StepsDone():
                self._show_steps(event)
            case StepsSkipped():
                self._tell_skipped(event)
            case BytesFetched():
                self._show_fetched(event)
            case EpochEnded():
                self._show_result(event.result)

    def close(self) -> None:
        """Clears the live line; safe to call twice."""
        if self._live is not None:
            self._live.stop()

    def _begin_epoch(self, event: EpochBegun) -> None:
        if self._next_line_s is None:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
        if self._live is not None:
            if self._task is not None:
                self._live.remove_task(self._task)
            self._task = self._live.add_task(f"epoch {event.epoch}/{self._epochs}", total=self._num_steps, state="")

    def _show_steps(self, event: StepsDone) -> None:
        """Moves the bar on; off a terminal, prints a line every few seconds."""
        now_s = time.monotonic()
        is_due = self._notebook is not None or (self._next_line_s is not None and now_s >= self._next_line_s)
        if self._live is None and not is_due:
            return
        left_s = (self._num_rows - event.rows + (self._epochs - event.epoch) * self._num_rows) / event.rows_per_s
        has_loss = math.isfinite(event.loss)  # else no step counted: all were skipped
        loss = [f"loss {show_number(event.loss)}"] if has_loss else []
        parts = [f"step {event.step:,}/{self._num_steps:,}", *loss, show_rate(event.rows_per_s)]
        state = " · ".join([*parts, f"{show_time(left_s)} left"])
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=event.step, state=state)
        else:
            self._next_line_s = now_s + LINE_EVERY_S
            self._print(f"epoch {event.epoch}/{self._epochs} · {state}")

    def _print(self, line: str, *, at_once: bool = False) -> None:
        """Prints a line or, in a notebook, shows it instead of the one before."""
        if self._notebook is not None:
            self._notebook.show(line, at_once=at_once)
        else:
            self._console.print(line)

    def _tell_skipped(self, event: StepsSkipped) -> None:
        """Says so once an epoch."""
        if self._skipped_in != event.epoch:
            self._skipped_in = event.epoch
            self._console.print(
                f"epoch {event.epoch}: an update is left out, as its loss or gradient is not finite (before step "
                f"{event.step:,})"
            )

    def _show_fetched(self, event: BytesFetched) -> None:
        """Says what came from stores, of all workers, and the least and the most of one."""
        total, requests = sum(event.num_bytes), sum(event.num_requests)
        each = ""
        if len(event.num_bytes) > 1:
            each = f", {show_bytes(min(event.num_bytes))} to {show_bytes(max(event.num_bytes))} a worker"
        self._console.print(
            f"epoch {event.epoch}/{self._epochs} · fetched {show_bytes(total)} in {requests:,} requests{each}"
        )

    def _show_result(self, result: EpochResult) -> None:
        skipped = f" · {result.skipped_steps:,} steps left out" if result.skipped_steps else ""
        self._print(
            f"epoch {result.epoch}/{self._epochs} · {show_values(result.values)} · {show_rate(result.rows_per_s)} · "
            f"{show_time(result.seconds)}{skipped}",
            at_once=True,
        )
