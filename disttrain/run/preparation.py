"""The model of a run and the feeds of its rows, made alike on all workers before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from disttrain.config import TrainConfig
from disttrain.data.row_source import RowSource
from disttrain.data.shuffle import FILE_ORDER, EpochOrder
from disttrain.data.superbatches import Feed
from disttrain.distributed.backend import Backend, together
from disttrain.errors import DataError, UsageError
from disttrain.run.announce import kind_of_replicas
from disttrain.run.identity import check_keep_best, metric_names
from disttrain.run.inputs import Inputs
from disttrain.training.engine import Engine
from disttrain.training.heads import Head, head_of, labels_of
from disttrain.training.labels import check_shares, num_classes
from disttrain.training.model import build_model


@dataclass(frozen=True)
class Prepared:
    """A compiled model in its engine, and the rows that it is trained on and validated with."""

    engine: Engine
    training: Feed
    validation: Feed | None


def last_layer(config: TrainConfig, backend: Backend, source: RowSource, inputs: Inputs) -> Head:
    """The dense network's last layer; where its loss takes labels, the file's are looked at. A collective."""
    loss, num_targets = config.loss, len(source.target_names)
    if config.model is not None:
        return Head(num_targets)
    head = together(backend, lambda: head_of(loss, num_targets))
    labels = labels_of(loss)
    if labels == "classes":
        return head_of(loss, num_targets, num_classes(backend, source, inputs.cache_dir, loss))
    if labels != "numbers":
        check_shares(backend, source, inputs.cache_dir, loss)
    return head


def prepare(
    config: TrainConfig,
    backend: Backend,
    inputs: Inputs,
    sources: tuple[RowSource, RowSource | None],
    head: Head,
    num_shards: int,
    *,
    goes_on: bool,
) -> Prepared:
    """Plans the epochs and builds the model and its engine.

    Args:
        config: the run's.
        backend: whose workers train.
        inputs: plans the epochs.
        sources: the rows to train on, and those to validate with.
        head: the dense network's last layer.
        num_shards: of the run.
        goes_on: whether it is of a run that began earlier, maybe with fewer workers.

    Raises:
        UsageError: for shards, a model or options that do not fit.
        DataError: if there are more shards than rows.
    """
    source, validation_source = sources
    world = backend.world
    if num_shards < world.num_replicas and not goes_on:
        kind = kind_of_replicas(world)
        raise UsageError(f"--num-shards {num_shards} leaves some of the {world.num_replicas} {kind} without a shard")
    if source.num_rows < num_shards:
        raise DataError(
            f"{source.url}: cannot give each of {num_shards} shards a row, having {source.num_rows}; use fewer workers"
        )
    training = inputs.feed(source, num_shards, EpochOrder(config.shuffle, config.seed))
    validation = inputs.feed(validation_source, num_shards, FILE_ORDER) if validation_source is not None else None
    num_features, num_targets = len(source.feature_names), len(source.target_names)
    with backend.replicas.scope():
        model = build_model(
            config, num_features, num_targets, head=head,
            num_shards=num_shards, steps_per_epoch=training.sharding.num_steps,
        )  # fmt: skip
        engine = Engine(
            model, backend, num_features, config.sync_every,
            num_targets=num_targets, rows_per_step=training.plan.rows_per_step if training.full_shape else 0,
            skips_nonfinite=config.on_nonfinite == "skip", compresses=config.compression == "fp16",
        )  # fmt: skip
    check_keep_best(config, metric_names(model, scalars=True))
    return Prepared(engine, training, validation)
