"""The progress of a run: a live line on a terminal, a line every few seconds anywhere else, nothing on other ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from disttrain.redaction import redacted
from disttrain.reporting.results import RunDirectory
from disttrain.standing import EpochResult
from disttrain.totals import Value

LINE_EVERY_S = 5.0


class _Console(Console):
    """A console that prints no secret of a URL."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's, with the secrets of texts left out."""
        super().print(*(redacted(one) if isinstance(one, str) else one for one in objects), **options)


def open_console(*, is_quiet: bool, is_terminal: bool | None) -> Console:
    """Where the leader prints; `is_terminal` is None for rich to find out."""
    return _Console(quiet=is_quiet, force_terminal=is_terminal, highlight=False, soft_wrap=True, markup=False)


def show_number(value: Value) -> str:
    """Four significant digits; of a vector as many of each number."""
    return f"[{' '.join(map(show_number, value))}]" if isinstance(value, list) else f"{value:.4g}"


def show_rate(rows_per_s: float) -> str:
    """Rows per second, with k or M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rows_per_s >= size:
            return f"{rows_per_s / size:.3g}{unit} rows/s"
    return f"{rows_per_s:.3g} rows/s"


def show_time(seconds: float) -> str:
    """`m:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def show_values(values: Mapping[str, Value]) -> str:
    """`loss 0.1234 · mse 0.05678`."""
    return " · ".join(f"{name} {show_number(value)}" for name, value in values.items())


class SilentReporter:
    """The reporter of every rank but the leader's."""

    def says(self, message: str) -> None:
        """Says nothing."""

    def epoch_begins(self, epoch: int, rows: int) -> None:
        """Says nothing."""

    def steps_done(self, step: int, rows: int, loss: float) -> None:
        """Says nothing."""

    def steps_skipped(self, step: int, count: int) -> None:
        """Says nothing."""

    def epoch_ends(self, result: EpochResult) -> None:
        """Says nothing."""

    def close(self) -> None:
        """Has nothing open."""


class ProgressReporter:
    """The leader's reporter: shows progress and keeps metrics.jsonl and history.csv."""

    def __init__(
        self, console: Console, directory: RunDirectory, *, epochs: int, num_steps: int, num_rows: int
    ) -> None:
        self._console = console
        self._directory = directory
        self._epochs = epochs
        self._num_steps = num_steps
        self._num_rows = num_rows
        self._epoch = 0
        self._epoch_begun_s = 0.0
        self._rows_before = 0
        self._next_line_s = 0.0
        self._skipped_in = 0  # the epoch in which it was last said
        self._live: Progress | None = None
        self._task: TaskID | None = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[state]}"),
                console=console, transient=True,
            )  # fmt: skip
            self._live.start()

    def says(self, message: str) -> None:
        """Prints a line."""
        self._console.print(message)

    def epoch_begins(self, epoch: int, rows: int) -> None:
        """Starts the epoch's clock and bar."""
        self._epoch_begun_s = time.monotonic()
        self._rows_before = rows
        if not self._epoch:
            self._next_line_s = self._epoch_begun_s + LINE_EVERY_S
        self._epoch = epoch
        if self._live is not None:
            if self._task is not None:
                self._live.remove_task(self._task)
            self._task = self._live.add_task(f"epoch {epoch}/{self._epochs}", total=self._num_steps, state="")

    def steps_done(self, step: int, rows: int, loss: float) -> None:
        """Moves the bar on; every few seconds keeps a record and, off a terminal, prints a line."""
        now_s = time.monotonic()
        rate = (rows - self._rows_before) / max(now_s - self._epoch_begun_s, 1e-9)
        left_s = (self._num_rows - rows + (self._epochs - self._epoch) * self._num_rows) / rate
        has_loss = math.isfinite(loss)  # of no step if all were left out
        parts = [f"step {step:,}/{self._num_steps:,}", *[f"loss {show_number(loss)}"] * has_loss, show_rate(rate)]
        state = " · ".join([*parts, f"{show_time(left_s)} left"])
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=step, state=state)
        if now_s >= self._next_line_s:
            self._next_line_s = now_s + LINE_EVERY_S
            record = {
                "event": "steps",
                "epoch": self._epoch,
                "step": step,
                "rows": rows,
                "loss": loss if has_loss else None,
            }
            self._directory.append_metrics({**record, "rows_per_s": round(rate)})
            if self._live is None:
                self._console.print(f"epoch {self._epoch}/{self._epochs} · {state}")

    def steps_skipped(self, step: int, count: int) -> None:
        """Says so once an epoch, and keeps a record of each time."""
        self._directory.append_metrics({"event": "skipped", "epoch": self._epoch, "step": step, "count": count})
        if self._skipped_in != self._epoch:
            self._skipped_in = self._epoch
            self._console.print(
                f"epoch {self._epoch}: a loss or gradient is not finite, its update is left out (before step {step:,})"
            )

    def epoch_ends(self, result: EpochResult) -> None:
        """Prints the epoch's line and keeps it in history.csv and metrics.jsonl."""
        skipped = f" · {result.skipped_steps:,} steps left out" if result.skipped_steps else ""
        self._console.print(
            f"epoch {result.epoch}/{self._epochs} · {show_values(result.values)} · {show_rate(result.rows_per_s)} · "
            f"{show_time(result.seconds)}{skipped}"
        )
        self._directory.write_epoch(result)
        self._directory.append_metrics(
            {"event": "epoch", "epoch": result.epoch, **result.values, "rows": result.rows}
            | {"seconds": round(result.seconds, 3), "rows_per_s": round(result.rows_per_s)}
        )

    def close(self) -> None:
        """Clears the live line; safe to call twice."""
        if self._live is not None:
            self._live.stop()
