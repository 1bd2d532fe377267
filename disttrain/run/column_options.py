"""The options about columns: what they ask for, and which other options follow from what the columns hold."""

from __future__ import annotations

from disttrain.config import ColumnSettings, TrainConfig
from disttrain.data.table.columns import Table
from disttrain.data.table.requests import Requests
from disttrain.option_types import read_class_weights, read_kinds, read_missing


def requests_of(config: ColumnSettings) -> Requests:
    """Returns what the options ask for; your own model gets numbers as they are unless something else is asked for."""
    default, own = read_missing(config.missing)
    is_own_model = isinstance(config, TrainConfig) and config.model is not None
    scale = "none" if is_own_model and config.scale == "auto" else config.scale
    return Requests(
        kinds=read_kinds(config.kinds),
        scale=scale,
        default_missing=default,
        missing=own,
        gaps=config.missing_values,
        max_categories=config.max_categories,
        weight=config.weight,
        class_weights=read_class_weights(config.class_weights),
        skips_bad_rows=isinstance(config, TrainConfig) and config.on_bad_row == "skip",
    )


DECAY_STEPS = 1_000  # an epoch must have as many for the learning rate to fall by itself: fewer steps need all of it


def with_settings(config: TrainConfig, table: Table | None, steps_per_epoch: int) -> TrainConfig:
    """Returns the options with the loss and the decay that suit the table, where they are left to it."""
    is_dense = config.model is None
    changes: dict[str, str] = {}
    if table is not None and is_dense and "loss" not in config.model_fields_set and table.targets[0].categories:
        changes["loss"] = "sparse_categorical_crossentropy"
    if config.decay == "auto":
        is_scaled = table is not None and any(column.scale != 1 or column.unit != 1 for column in table.columns)
        falls = is_dense and is_scaled and config.callbacks is None and steps_per_epoch >= DECAY_STEPS
        changes["decay"] = "cosine" if falls else "none"
    return config.model_copy(update=changes) if changes else config
