"""What a run prints: numbers as people read them, and its progress."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from disttrain.errors import redacted
from disttrain.training.metric_sums import Value
from disttrain.training.progress import EpochResult
from disttrain.training.reports import BytesFetched, EpochBegun, EpochEnded, Event, StepsDone, StepsSkipped

LINE_EVERY_S = 5.0


class _Console(Console):
    """A console that leaves the secrets in URLs out of what it prints."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as rich's console does, without the secrets in texts."""
        super().print(*(redacted(one) if isinstance(one, str) else one for one in objects), **options)


def open_console(*, is_quiet: bool, is_terminal: bool | None) -> Console:
    """Returns the console that the leader prints to; with `is_terminal` None, rich detects whether it is a terminal."""
    return _Console(quiet=is_quiet, force_terminal=is_terminal, highlight=False, soft_wrap=True, markup=False)


def show_number(value: Value) -> str:
    """Formats a number, or each number of a vector, with four significant digits."""
    return f"[{' '.join(map(show_number, value))}]" if isinstance(value, list) else f"{value:.4g}"


def show_rate(rows_per_s: float) -> str:
    """Formats rows per second, with k or M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rows_per_s >= size:
            return f"{rows_per_s / size:.3g}{unit} rows/s"
    return f"{rows_per_s:.3g} rows/s"


def show_bytes(num_bytes: float) -> str:
    """Formats bytes in the unit that leaves one to three digits before the point."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def show_time(seconds: float) -> str:
    """Formats a time as `m:ss`, or as `h:mm:ss` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def show_values(values: Mapping[str, Value]) -> str:
    """Formats named values, such as `loss 0.1234 · mse 0.05678`."""
    return " · ".join(f"{name} {show_number(value)}" for name, value in values.items())


class ConsoleProgress:
    """Shows progress: a live line on a terminal, a line every few seconds anywhere else, and one for each epoch."""

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
        is_due = self._next_line_s is not None and now_s >= self._next_line_s
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
            self._console.print(f"epoch {event.epoch}/{self._epochs} · {state}")

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
        self._console.print(
            f"epoch {result.epoch}/{self._epochs} · {show_values(result.values)} · {show_rate(result.rows_per_s)} · "
            f"{show_time(result.seconds)}{skipped}"
        )
