"""What a run has come to: the results of the epochs that are done, and how far the one after them is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from disttrain.engine import Call
from disttrain.totals import Value


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to, over all workers. `epoch` counts from 1; the names of `values` are Keras's."""

    epoch: int
    values: dict[str, Value]
    rows: int
    seconds: float
    skipped_steps: int = 0

    @property
    def rows_per_s(self) -> float:
        """Rows trained on per second, validation apart."""
        return self.rows / self.seconds


@dataclass
class Progress:
    """What an epoch has come to so far, over all workers; `seconds` are those of earlier processes.

    `batch` is the first step of the superbatch that callbacks were told the begin of but not yet the end, if any.
    """

    steps: int = 0
    rows: int = 0
    loss_rows: int = 0
    loss_sum: float = 0.0
    skipped_steps: int = 0
    seconds: float = 0.0
    batch: int | None = None

    def add(self, call: Call, global_rows: npt.NDArray[np.int64]) -> None:
        """Counts a call's steps, with `global_rows` rows each, int64 [steps]; skipped ones add nothing to the loss."""
        applied = call.applied
        self.steps += len(applied)
        self.rows += int(global_rows.sum())
        self.loss_rows += int(global_rows[applied].sum())
        losses = call.losses[applied].astype(np.float64) * global_rows[applied]
        self.loss_sum = float(np.cumsum(np.append(self.loss_sum, losses))[-1])  # one by one: calls are cut anywhere
        self.skipped_steps += int(np.count_nonzero(~applied))

    @property
    def loss(self) -> float:
        """The mean loss of the rows so far."""
        return self.loss_sum / self.loss_rows if self.loss_rows else float("nan")


@dataclass
class Standing:
    """Where a run stands: the epochs that are done, and how far the one after them is."""

    results: list[EpochResult] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    stopped_early: bool = False  # by a callback, at the epoch's end or within it

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Standing:
        """What `asdict` gave, through JSON."""
        results = [EpochResult(**result) for result in kept["results"]]
        return cls(results, Progress(**kept["progress"]), kept["stopped_early"])

    @property
    def epoch(self) -> int:
        """The epoch that is going on, counted from 1."""
        return len(self.results) + 1

    def is_done(self, epochs: int) -> bool:
        """Whether nothing is left to train."""
        return len(self.results) >= epochs or (self.stopped_early and not self.progress.steps)
