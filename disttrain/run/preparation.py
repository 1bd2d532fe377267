"""The model of a run and the feeds of its rows, made alike on all workers before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras

from disttrain.data.shuffle import FILE_ORDER, EpochOrder
from disttrain.distributed.backend import together
from disttrain.errors import DataError, UsageError
from disttrain.run.announce import kind_of_replicas
from disttrain.run.feeds import open_feed
from disttrain.run.identity import check_keep_best, metric_names
from disttrain.training.description import Description
from disttrain.training.engine import Engine
from disttrain.training.heads import Head, head_of, labels_of
from disttrain.training.labels import check_shares, num_classes
from disttrain.training.model import build_model, columns_by_name, saved_model, unit_of_loss

if TYPE_CHECKING:
    from disttrain.data.row_source import RowSource
    from disttrain.data.superbatches import Feed
    from disttrain.run.context import RunContext
    from disttrain.run.opening import Opened


@dataclass(frozen=True)
class Prepared:
    """A compiled model in its engine, and the rows that it is trained on and validated with.

    `saved` is what is saved at the end: the model or, around it, one that takes the table's raw columns; with it,
    `description`.
    """

    engine: Engine
    training: Feed
    validation: Feed | None
    saved: keras.Model
    description: Description


def prepare(context: RunContext, opened: Opened) -> Prepared:
    """Plans the epochs and builds the model and its engine; a collective.

    Raises:
        UsageError: for shards, a model or options that do not fit.
        DataError: if there are more shards than rows.
    """
    head = _last_layer(context, opened.training)
    return together(context.backend, lambda: _prepare(context, opened, head))


def _last_layer(context: RunContext, source: RowSource) -> Head:
    """Chooses the dense network's last layer; if its loss takes labels, those of the file are looked at."""
    backend, loss, num_targets = context.backend, context.config.loss, len(source.target_names)
    if context.config.model is not None:
        return Head(num_targets)
    head = together(backend, lambda: head_of(loss, num_targets))
    labels = labels_of(loss)
    if source.table is not None and (names := source.table.targets[0].categories):
        return head_of(loss, num_targets, len(names))
    if labels == "classes":
        return head_of(loss, num_targets, num_classes(backend, source, context.cache_dir, loss))
    if labels != "numbers":
        check_shares(backend, source, context.cache_dir, loss)
    return head


def _prepare(context: RunContext, opened: Opened, head: Head) -> Prepared:
    config, backend, source, num_shards = context.config, context.backend, opened.training, opened.num_shards
    _check_shards(context, opened)
    training = open_feed(context, source, num_shards, EpochOrder(config.shuffle, config.seed))
    validation = open_feed(context, opened.validation, num_shards, FILE_ORDER) if opened.validation else None
    num_features, num_targets = len(source.feature_names), len(source.target_names)
    most_rows = training.sharding.most_rows_per_step(backend.world.size)
    with backend.replicas.scope():
        model = build_model(
            config, num_features, num_targets, head=head, table=source.table, is_weighted=source.is_weighted,
            num_shards=num_shards, steps_per_epoch=training.sharding.num_steps,
        )  # fmt: skip
        engine = Engine(
            model, backend, num_features, config.sync_every,
            num_targets=num_targets, is_weighted=source.is_weighted, by_name=columns_by_name(config, source.table),
            unit=unit_of_loss(model, source.table), rows_per_step=most_rows if training.full_shape else 0,
            skips_nonfinite=config.on_nonfinite == "skip", compresses=config.compression == "fp16",
        )  # fmt: skip
        saved = saved_model(model, source.table, by_name=engine.inputs.by_name is not None)
    check_keep_best(config, metric_names(model, scalars=True))
    description = Description.of(config, source, model, by_name=engine.inputs.by_name is not None)
    return Prepared(engine, training, validation, saved, description)


def _check_shards(context: RunContext, opened: Opened) -> None:
    """Raises UsageError or DataError unless each worker gets a shard, where the run begins, and each shard a row."""
    world, source, num_shards = context.backend.world, opened.training, opened.num_shards
    goes_on = opened.checkpoint is not None or context.continuity.is_elastic  # maybe with more workers than at first
    if num_shards < world.num_replicas and not goes_on:
        kind = kind_of_replicas(world)
        raise UsageError(f"--num-shards {num_shards} leaves some of the {world.num_replicas} {kind} without a shard")
    if source.num_rows < num_shards:
        raise DataError(
            f"{source.url}: expected a row for each of {num_shards} shards, found {source.num_rows}; use fewer workers"
        )
