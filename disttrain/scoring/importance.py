"""Permutation importance: how much the loss rises if a feature's values are dealt out among the rows anew.

Breiman, "Random Forests", Machine Learning 45 (2001), section 10. A feature's values are permuted within each part of
the rows, by its number, so that any number of workers finds the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from disttrain.data.row_source import Floats
from disttrain.distributed.backend import Backend
from disttrain.scoring.figures import LossSum, weighed
from disttrain.training.description import Description


class ImportanceSums:
    """The sums of the losses of this worker's rows, with each feature permuted: a forward pass for each."""

    def __init__(self, description: Description, losses: LossSum, forward: Callable[[Floats], Floats]) -> None:
        """Takes what computes outputs and losses of rows."""
        table = description.table
        sizes = [len(column.slots) for column in table.features] if table else [1] * len(description.features)
        stops = np.cumsum(sizes)
        self._spans = list(zip((stops - sizes).tolist(), stops.tolist(), strict=True))
        self._names = description.features
        self._losses = losses
        self._forward = forward
        self._sums = np.zeros((len(self._names), 2))

    def add(self, rows: Floats, targets: Floats, weights: Floats | None, part_start: int) -> None:
        """Adds rows of the part that begins with a row number: rows [rows, columns], the others as `LossSum` takes."""
        permuted = rows.copy()
        for number, (start, stop) in enumerate(self._spans):
            order = np.random.default_rng([part_start, number]).permutation(len(rows))
            permuted[:, start:stop] = rows[order, start:stop]
            self._sums[number] += weighed(self._losses.of_rows(targets, self._forward(permuted)), weights)
            permuted[:, start:stop] = rows[:, start:stop]

    def values(self, backend: Backend, loss: float) -> list[dict[str, Any]]:
        """Returns what each feature does to the loss, the most important first; a collective."""
        total = backend.sum(self._sums)
        raised = [(name, float(one[0] / one[1])) for name, one in zip(self._names, total, strict=True)]
        found = [{"feature": name, "loss": value, "increase": value - loss} for name, value in raised]
        return sorted(found, key=lambda one: -one["increase"])
