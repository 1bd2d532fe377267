"""What identifies a run: what must stay the same to go on from its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from disttrain.checkpoints.record import RunRecord
from disttrain.config import TrainConfig
from disttrain.data.row_source import RowSource
from disttrain.data.superbatches import Feed
from disttrain.errors import UsageError, all_redacted, redacted
from disttrain.run.resume import RunPaths, best_by
from disttrain.training.model import top_learning_rate
from disttrain.training.state import describe_variables


def record_of(
    config: TrainConfig, training: Feed, validation: RowSource | None, model: keras.Model, paths: RunPaths
) -> RunRecord:
    """Returns what a checkpoint tells of this run."""
    source, sharding = training.source, training.sharding
    return RunRecord(
        data=_fingerprints(source),
        validation_data=_fingerprints(validation) if validation is not None else None,
        num_rows=source.num_rows,
        limit=config.limit,
        validation_split=config.validation_split,
        features=list(source.feature_names),
        targets=list(source.target_names),
        table=source.table.to_json() if source.table is not None else {},
        num_shards=sharding.num_shards,
        batch_size=sharding.batch_size,
        shuffle=config.shuffle,
        seed=config.seed,
        precision=config.precision,
        compression=config.compression,
        decay=config.decay,
        warmup_epochs=config.warmup_epochs,
        model=describe_variables(model.variables),
        loss=config.loss if ":" in config.loss else _loss_name(model),
        metrics=metric_names(model),
        optimizer_class=type(model.optimizer).__name__,
        optimizer_name=config.optimizer if config.model is None else None,
        metric_arguments=",".join(metric for metric in config.metrics if ":" in metric),
        schedule=config.learning_rate if isinstance(config.learning_rate, str) else "",
        optimizer=describe_variables(model.optimizer.variables),
        learning_rate=learning_rate_of(config, model, sharding.num_shards),
        output=str(paths.output),
        options=all_redacted(config.model_dump(mode="json")),
    )


def learning_rate_of(config: TrainConfig, model: keras.Model, num_shards: int) -> float | None:
    """Returns the learning rate that a compiled model begins with, or the highest of the options' own schedules.

    None stands for a schedule of the user's.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        return top_learning_rate(config, num_shards) if config.warmup_epochs or config.decay == "cosine" else None
    return float(optimizer.learning_rate.numpy())


def new_learning_rate(
    config: TrainConfig, model: keras.Model, num_shards: int, resumed: RunRecord | None
) -> float | None:
    """Returns the learning rate that was asked for if it differs from the one that the resumed run began with.

    Where a schedule begins with it, or warms up to it, the model has that schedule already.
    """
    wanted = learning_rate_of(config, model, num_shards)
    before = resumed.learning_rate if resumed is not None else None
    if wanted is None or before is None or config.warmup_epochs or config.decay == "cosine":
        return None
    return wanted if np.float32(wanted) != np.float32(before) else None  # an optimizer keeps it as float32


def check_keep_best(config: TrainConfig, metrics: Sequence[str]) -> None:
    """Raises UsageError if no epoch will have the value by which the best checkpoint is to stay."""
    monitored = best_by(config)
    names = ["loss", *metrics]
    names += [f"val_{name}" for name in names] if config.validates else []
    if monitored is not None and monitored[0] not in names:
        raise UsageError(f"--keep-best {monitored[0]}: there is no such value; the values are {', '.join(names)}")


def metric_names(model: keras.Model, *, scalars: bool = False) -> list[str]:
    """Returns the names of a built model's metrics, without the loss; with `scalars` only those of one number."""
    results = model.get_metrics_result()
    return [name for name, value in results.items() if name != "loss" and not (scalars and np.ndim(value))]


def _fingerprints(source: RowSource) -> dict[str, str]:
    return {redacted(file.url): file.fingerprint for file in source.files}


def _loss_name(model: keras.Model) -> str:
    loss = model.loss
    return loss if isinstance(loss, str) else str(getattr(loss, "name", None) or getattr(loss, "__name__", loss))
