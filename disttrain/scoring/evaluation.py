"""Evaluates a trained model: each worker on its part of the rows, then all together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from disttrain.config import EvaluateSettings
from disttrain.data.row_source import Floats
from disttrain.data.sharding import shard_range
from disttrain.distributed.backend import together
from disttrain.errors import DataError, UsageError
from disttrain.scoring.figures import ClassSums, LossSum, NumberSums
from disttrain.scoring.importance import ImportanceSums
from disttrain.scoring.skipped import tell_skipped
from disttrain.scoring.streaming import parsed_parts, part_rows, parts_of
from disttrain.scoring.world import Scored, open_world
from disttrain.threads import num_cores
from disttrain.training.description import Description
from disttrain.training.metric_sums import Value

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evaluated:
    """What a model's answers came to.

    Attributes:
        model, data: as the user named them.
        rows: how many there were, `weightless` of which had the weight 0 and do not count.
        seconds: that this took, without opening.
        values: loss and metrics, by Keras's names.
        numbers: for each target that is a number: `target`, `mae`, `rmse`, `r2`.
        classes: of a classification: `confusion` [label][answer], `classes` with figures for each, `auc` of two.
        importance: if it is asked for, for each feature: its name, the `loss` with its values permuted, the `increase`.
    """

    model: str
    data: str
    rows: int
    weightless: int
    seconds: float
    values: Mapping[str, Value]
    numbers: list[dict[str, Any]] = field(default_factory=list)
    classes: Mapping[str, Any] = field(default_factory=dict)
    importance: list[dict[str, Any]] = field(default_factory=list)


def evaluated(
    config: EvaluateSettings, environ: Mapping[str, str], on_start: Callable[[], None] = lambda: None
) -> Evaluated | None:
    """Evaluates on all workers together; returns the result on the leader, None on the others.

    Calls `on_start` once the workers have met.
    """
    with open_world(config, environ, with_targets=True, on_start=on_start) as scored:
        found = evaluated_in(config, scored)
        return found if scored.context.backend.world.is_leader else None


def evaluated_in(config: EvaluateSettings, scored: Scored) -> Evaluated:
    """Evaluates in an open world; a collective."""
    backend, source, description = scored.context.backend, scored.source, scored.trained.description
    begun_s = time.monotonic()
    if config.importance:
        passes = len(description.features) + 1
        scored.context.console.print(f"Permutation importance: {passes:,} forward passes over the rows instead of 1")
    evaluation = together(backend, lambda: _Evaluation(scored, config))
    if left_out := evaluation.losses.left_out:
        scored.context.console.print(f"Left out, as the model is not trusted (--trust-model): {', '.join(left_out)}")
    weightless = sum(backend.gather(together(backend, evaluation.run)))
    tell_skipped(scored)
    values = evaluation.losses.values(backend)
    classes, numbers, importance = evaluation.classes, evaluation.numbers, evaluation.importance
    return Evaluated(
        config.model,
        source.url,
        source.num_rows,
        weightless,
        time.monotonic() - begun_s,
        values,
        numbers.values(backend, description.targets) if numbers is not None else [],
        classes.values(backend, evaluation.labels) if classes is not None else {},
        importance.values(backend, float(values["loss"])) if importance is not None else [],  # type: ignore[arg-type]
    )


class _Evaluation:
    """This worker's part of an evaluation."""

    def __init__(self, scored: Scored, config: EvaluateSettings) -> None:
        description, num_outputs = scored.trained.description, scored.forward.num_outputs
        self._scored = scored
        self.losses = LossSum(description, num_outputs, trust=config.trust_model)
        if config.importance and not self.losses.has_loss:
            raise UsageError(f"--importance: the loss of {config.model} is not known: there is nothing to compare")
        self.importance = ImportanceSums(description, self.losses, scored.forward) if config.importance else None
        self.labels = _labels(description, num_outputs, scored.trained.url)
        self.classes = ClassSums(len(self.labels)) if self.labels else None
        is_compared = description.task == "regression" and num_outputs == len(description.targets)
        self.numbers = NumberSums(num_outputs) if is_compared else None
        self._has_words = description.table is not None and bool(description.table.targets[0].categories)

    def run(self) -> int:
        """Adds this worker's rows; returns how many had no weight."""
        scored, source = self._scored, self._scored.source
        world, weightless = scored.context.backend.world, 0
        parts = parts_of(source.num_rows, part_rows(source.num_columns))
        own = shard_range(len(parts), world.size, world.rank)
        for part, rows in parsed_parts(source, parts[own.start : own.stop], num_cores(world.local_size)):
            _, targets, weights = scored.inputs.split(rows)
            outputs, numbers = scored.forward(rows), np.arange(part.start, part.stop)
            if weights is not None and not weights.all():  # what has no weight may stand for nothing
                kept = weights != 0
                weightless += int(np.count_nonzero(~kept))
                targets, outputs, numbers, weights = targets[kept], outputs[kept], numbers[kept], weights[kept]
                rows = rows[kept]
            if len(targets):
                self._add(targets, outputs, weights, numbers)
                if self.importance is not None:
                    self.importance.add(rows, targets, weights, part.start)
        return weightless

    def _add(self, targets: Floats, outputs: Floats, weights: Floats | None, numbers: Int64s) -> None:
        classes = self._class_numbers(targets, numbers) if self.classes is not None else None
        self.losses.add(targets, outputs, weights)
        if self.classes is not None and classes is not None:
            self.classes.add(classes, outputs, weights)
        if self.numbers is not None:
            self.numbers.add(targets, outputs, weights)

    def _class_numbers(self, targets: Floats, numbers: Int64s) -> Int64s:
        """Returns the class of each row; DataError for one that the model does not have. Shares count as 0 or 1."""
        values, size = targets[:, 0], len(self.labels)
        is_share = (values >= 0) & (values <= 1) if size == 2 and not self._has_words else np.zeros(len(values), bool)
        odd = np.flatnonzero(~is_share & ~((values >= 0) & (values < size) & (values == np.floor(values))))
        if len(odd):
            place = self._scored.source.place_of(int(numbers[odd[0]]))
            name = self._scored.trained.description.targets[0]
            raise DataError(f"{place}: column '{name}' holds {values[odd[0]]:.9g}, but the model has {size} classes")
        return np.where(is_share, values > 0.5, values).astype(np.int64)


def _labels(description: Description, num_outputs: int, model: str) -> tuple[str, ...]:
    """Returns the labels of a classification; UsageError if the model gives something else than a number for each."""
    labels = description.labels(num_outputs)
    if labels and len(labels) != max(num_outputs, 2):
        raise UsageError(f"{model}: gives {num_outputs} numbers for {len(labels)} labels, which cannot be compared")
    return labels
