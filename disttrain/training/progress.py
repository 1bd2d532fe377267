"""A run's progress: the results of finished epochs, and the current epoch so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from disttrain.training.engine import Superstep
from disttrain.training.metric_sums import Value


@dataclass(frozen=True)
class EpochResult:
    """One epoch's results over all workers; `epoch` counts from 1, and the names of `values` are Keras's."""

    epoch: int
    values: dict[str, Value]
    rows: int
    seconds: float
    skipped_steps: int = 0

    @property
    def rows_per_s(self) -> float:
        """Rows trained on per second, not counting validation."""
        return self.rows / self.seconds


@dataclass
class EpochProgress:
    """The current epoch so far, over all workers; `seconds` were spent on it in earlier processes.

    `batch` is the first step of a superbatch whose begin, but not yet its end, was reported to callbacks, else None.
    """

    steps: int = 0
    rows: int = 0
    loss_rows: int = 0
    loss_sum: float = 0.0
    skipped_steps: int = 0
    seconds: float = 0.0
    batch: int | None = None

    def add(self, superstep: Superstep, global_rows: npt.NDArray[np.int64]) -> None:
        """Adds a superstep, with `global_rows` rows in each step, int64 [steps]; skipped steps add no loss."""
        applied = superstep.applied
        self.steps += len(applied)
        self.rows += int(global_rows.sum())
        self.loss_rows += int(global_rows[applied].sum())
        losses = superstep.losses[applied].astype(np.float64) * global_rows[applied]
        self.loss_sum = float(np.cumsum(np.append(self.loss_sum, losses))[-1])  # one by one: supersteps end anywhere
        self.skipped_steps += int(np.count_nonzero(~applied))

    @property
    def loss(self) -> float:
        """The mean loss of the rows so far."""
        return self.loss_sum / self.loss_rows if self.loss_rows else float("nan")


@dataclass
class RunProgress:
    """The results of finished epochs, and the current epoch so far."""

    results: list[EpochResult] = field(default_factory=list)
    current: EpochProgress = field(default_factory=EpochProgress)
    stopped_early: bool = False  # by a callback, at the epoch's end or within it

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> RunProgress:
        """Makes the progress from what `to_json` returned, as read from JSON."""
        results = [EpochResult(**result) for result in kept["results"]]
        return cls(results, EpochProgress(**kept["progress"]), kept["stopped_early"])

    def to_json(self) -> dict[str, Any]:
        """Returns the progress as plain data for JSON."""
        return {
            "results": [asdict(result) for result in self.results],
            "progress": asdict(self.current),
            "stopped_early": self.stopped_early,
        }

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 1."""
        return len(self.results) + 1

    def is_done(self, epochs: int) -> bool:
        """Returns whether nothing is left to train."""
        return len(self.results) >= epochs or (self.stopped_early and not self.current.steps)
