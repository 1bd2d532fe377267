"""The model of a checkpoint, built anew as its run built it, with the weights that were saved."""

from __future__ import annotations

from typing import Any

import keras

from disttrain.checkpoints.file import Checkpoint, foreign_content
from disttrain.checkpoints.record import RunRecord
from disttrain.checkpoints.store import CheckpointStore
from disttrain.config import TrainConfig
from disttrain.config.option_types import Named
from disttrain.data.table.columns import Table
from disttrain.errors import UsageError
from disttrain.training.description import Description, compiled_with, trained_on
from disttrain.training.heads import Head, head_of
from disttrain.training.inputs import Inputs
from disttrain.training.model import new_model, takes_table
from disttrain.training.state import assign_weights
from disttrain.training.tasks import task_of
from disttrain.training.user_code import GIVEN_MODEL


def model_of_checkpoint(url: str, *, trust: bool) -> tuple[keras.Model, Description]:
    """Builds the model of a checkpoint.

    Args:
        url: of the checkpoint.
        trust: whether the run's own model function may be imported and called.

    Raises:
        CheckpointError: if it is damaged, or of something else than a run.
        UsageError: if it is not there, or its model comes from a function and is not trusted.
    """
    with CheckpointStore(url.rpartition("/")[0] or ".", keep=1) as store:
        checkpoint = store.load(url)
    with foreign_content(url, "is of something else than a run of disttrain ({})"):
        record = RunRecord.of(checkpoint)
        config = _config_of(record)
        table = Table.from_json(record.table) if record.table else None
        features, targets = tuple(record.features or ()), tuple(record.targets or ())
    own = [word for word in (config.model, config.loss) if word is not None and Named.parse(word).is_own]
    if config.model == GIVEN_MODEL:
        raise UsageError(
            f"{url}: its model came from a Python program; give the model.keras of the run, when it has ended"
        )
    if own and not trust:
        raise UsageError(
            f"{url}: its model needs {own[0]}, which would be called; add --trust-model if you trust it, or give the "
            "model.keras of the run"
        )
    loss, by_name = config.loss, table is not None and takes_table(config)
    model = _built(config, checkpoint, record, table, by_name=by_name)
    names = [tuple(one.name for one in columns) for columns in (table.features, table.targets)] if table else None
    features, targets = names or (features, targets)
    metrics = config.metrics
    if model.compiled:
        loss, metrics = compiled_with(model)
    words = (task_of(config, table), loss, metrics, config.model or "")
    return model, Description(features, targets, table, by_name, *words, *trained_on(config))


def _config_of(record: RunRecord) -> TrainConfig:
    """Returns the options of a run, as far as this disttrain knows them."""
    options = {name: value for name, value in (record.options or {}).items() if name in TrainConfig.model_fields}
    return TrainConfig.model_validate(options)


def _built(
    config: TrainConfig, checkpoint: Checkpoint, record: RunRecord, table: Table | None, *, by_name: bool
) -> keras.Model:
    num_features, num_targets = len(record.features or ()), len(record.targets or ())
    head = Head(num_targets)
    if config.model is None:
        head = head_of(config.loss, num_targets, _units(record))
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    model = new_model(config, num_features, num_targets, head, table)
    inputs = Inputs(num_features, num_targets, by_name=table.features if by_name and table is not None else None)
    model(inputs.features(keras.ops.zeros((1, num_features))), training=False)  # creates its variables
    assign_weights(model, checkpoint.arrays)
    return model


def _units(record: RunRecord) -> int:
    """Returns the units of the last layer: the size of the last variable, its bias."""
    last: Any = (record.model or [["", [1], ""]])[-1]
    return int(last[1][-1])
