"""Evaluates a trained model: each worker on its part of the rows, then all together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from disttrain.config import EvaluateSettings
from disttrain.data.sharding import shard_range
from disttrain.distributed.backend import together
from disttrain.errors import UsageError
from disttrain.scoring.figures import MOST_CLASSES, ClassSums, LossSum, NumberSums, without_weightless
from disttrain.scoring.streaming import parsed_parts, part_rows, parts_of
from disttrain.scoring.world import Scored, open_world
from disttrain.threads import num_cores
from disttrain.training.metric_sums import Value


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
    """

    model: str
    data: str
    rows: int
    weightless: int
    seconds: float
    values: Mapping[str, Value]
    numbers: list[dict[str, Any]] = field(default_factory=list)
    classes: Mapping[str, Any] = field(default_factory=dict)


def evaluated(config: EvaluateSettings, environ: Mapping[str, str]) -> Evaluated | None:
    """Evaluates on all workers together; returns the result on the leader, None on the others."""
    with open_world(config, environ, with_targets=True) as scored:
        found = _evaluated(config, scored)
        return found if scored.context.backend.world.is_leader else None


def _evaluated(config: EvaluateSettings, scored: Scored) -> Evaluated:
    backend, source, inputs, description = (
        scored.context.backend,
        scored.source,
        scored.inputs,
        scored.trained.description,
    )
    world, begun_s = backend.world, time.monotonic()
    labels = _labels(scored)
    losses, numbers = LossSum(description), NumberSums(inputs.num_targets)
    classes = ClassSums(len(labels)) if labels else None
    parts = parts_of(source.num_rows, part_rows(source.num_columns))
    own = shard_range(len(parts), world.size, world.rank)
    offsets = np.array([column.offset for column in description.table.targets] if description.table else [0.0])

    def work() -> int:
        weightless = 0
        for _, rows in parsed_parts(source, parts[own.start : own.stop], num_cores(world.local_size)):
            _, targets, weights = inputs.split(rows)
            given = {"targets": targets, "outputs": scored.forward(rows), "weights": weights}
            kept = without_weightless(given)
            y, outputs, weights = kept["targets"], kept["outputs"], kept["weights"]
            assert y is not None
            assert outputs is not None
            weightless += len(rows) - len(y)
            losses.add(y, outputs, weights)
            if classes is not None:
                classes.add(y, outputs, weights)
            elif outputs.shape == y.shape:
                numbers.add((y + offsets).astype(np.float32), (outputs + offsets).astype(np.float32), weights)
        return weightless

    weightless = sum(backend.gather(together(backend, work)))
    values = losses.values(backend)
    is_regression = classes is None and description.task == "regression"
    return Evaluated(
        config.model,
        source.url,
        source.num_rows,
        weightless,
        time.monotonic() - begun_s,
        values,
        numbers.values(backend, description.targets) if is_regression else [],
        classes.values(backend, labels) if classes is not None else {},
    )


def _labels(scored: Scored) -> tuple[str, ...]:
    """Returns the labels of a classification by one target; those that are numbers count from 0."""
    description, core = scored.trained.description, scored.trained.core
    if description.task == "regression" or len(description.targets) > 1:
        return ()
    if description.table is not None and (labels := description.table.targets[0].categories):
        return labels
    units = max(int(core.output_shape[-1]), 2)
    if units > MOST_CLASSES:
        raise UsageError(f"{scored.trained.url}: has {units:,} classes, and up to {MOST_CLASSES:,} are compared")
    return tuple(map(str, range(units)))
