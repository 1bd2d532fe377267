"""The reporters that write files: metrics.jsonl, a line for each event, and history.csv, a row for each epoch."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from disttrain.run.directory import HISTORY, METRICS, disk_errors
from disttrain.storage.local import atomic_write
from disttrain.training.progress import EpochResult
from disttrain.training.reports import BytesFetched, EpochBegun, EpochEnded, Event, Regrouped, StepsDone, StepsSkipped

STEPS_EVERY_S = 5.0


class MetricsLog:
    """Adds a line of JSON to metrics.jsonl for each event, and every few seconds one for the steps that are done."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the run's."""
        self._path = directory / METRICS
        self._next_s: float | None = None

    def report(self, event: Event) -> None:
        """Writes the event's line, if it has one."""
        match event:
            case EpochBegun():
                if self._next_s is None:
                    self._next_s = time.monotonic() + STEPS_EVERY_S
            case StepsDone():
                self._steps_done(event)
            case StepsSkipped(epoch, step, count):
                self._append({"event": "skipped", "epoch": epoch, "step": step, "count": count})
            case BytesFetched(epoch, num_bytes, num_requests):
                self._append({"event": "fetched", "epoch": epoch, "bytes": num_bytes, "requests": num_requests})
            case EpochEnded(result):
                self._append(
                    {"event": "epoch", "epoch": result.epoch, **result.values, "rows": result.rows}
                    | {"seconds": round(result.seconds, 3), "rows_per_s": round(result.rows_per_s)}
                )
            case Regrouped():
                self._append(
                    {"event": "world", "why": event.why, "workers": event.workers}
                    | {"workers_before": event.workers_before, "epoch": event.epoch, "step": event.step}
                    | {"seconds": round(event.seconds, 3)}
                )

    def close(self) -> None:
        """Has nothing open."""

    def _steps_done(self, event: StepsDone) -> None:
        now_s = time.monotonic()
        if self._next_s is not None and now_s >= self._next_s:
            self._next_s = now_s + STEPS_EVERY_S
            loss = event.loss if math.isfinite(event.loss) else None  # of no step if all were left out
            self._append(
                {"event": "steps", "epoch": event.epoch, "step": event.step, "rows": event.rows, "loss": loss}
                | {"rows_per_s": round(event.rows_per_s)}
            )

    def _append(self, record: Mapping[str, Any]) -> None:
        """Adds one line, in a single write."""
        line = json.dumps({"time_s": round(time.time(), 3), **record}).encode() + b"\n"
        with disk_errors(self._path):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)


class History:
    """Keeps history.csv, a row for every epoch so far, each time whole."""

    def __init__(self, directory: Path, earlier: Sequence[EpochResult] = ()) -> None:
        """`directory` is the run's; `earlier` are the epochs that earlier processes finished."""
        self._path = directory / HISTORY
        self._epochs = list(earlier)

    def report(self, event: Event) -> None:
        """Writes the file anew when an epoch has ended."""
        if isinstance(event, EpochEnded):
            self._epochs.append(event.result)
            with atomic_write(self._path) as stream:
                stream.write(self._text().encode())

    def close(self) -> None:
        """Has nothing open."""

    def _text(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        skips = any(epoch.skipped_steps for epoch in self._epochs)
        # The last epoch first: a checkpoint does not keep the order of an earlier one's values.
        names = list(dict.fromkeys(name for epoch in (self._epochs[-1], *self._epochs) for name in epoch.values))
        writer.writerow(["epoch", *names, "rows", "seconds", "rows_per_s", *["skipped_steps"] * skips])
        for epoch in self._epochs:
            speed = [epoch.rows, f"{epoch.seconds:.3f}", f"{epoch.rows_per_s:.0f}"]
            values = [epoch.values.get(name, "") for name in names]
            writer.writerow([epoch.epoch, *values, *speed, *[epoch.skipped_steps] * skips])
        return text.getvalue()
