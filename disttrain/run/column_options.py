"""The options about columns: what they ask for, and which other options follow from what the columns hold."""

from __future__ import annotations

from collections.abc import Sequence

from disttrain.config import BadRowSettings, ColumnSettings, TrainConfig
from disttrain.config.option_types import KindRequest, read_class_weights, read_kinds, read_missing
from disttrain.data.table.columns import Table
from disttrain.data.table.requests import Requests
from disttrain.training.tasks import holds_labels, settings_of


def requests_of(config: ColumnSettings, target_names: Sequence[str]) -> Requests:
    """Returns what the options ask for; your own model gets numbers as they are unless something else is asked for.

    Raises:
        UsageError: for a task and a loss that do not suit each other.
    """
    default, own = read_missing(config.missing)
    kinds = read_kinds(config.kinds)
    if isinstance(config, TrainConfig) and holds_labels(config, target_names):
        kinds.setdefault(target_names[0], KindRequest("category"))
    is_own_model = isinstance(config, TrainConfig) and config.model is not None
    scale = "none" if is_own_model and config.scale == "auto" else config.scale
    return Requests(
        kinds=kinds,
        scale=scale,
        default_missing=default,
        missing=own,
        gaps=config.missing_values,
        max_categories=config.max_categories,
        weight=config.weight,
        class_weights=read_class_weights(config.class_weights),
        skips_bad_rows=isinstance(config, BadRowSettings) and config.on_bad_row == "skip",
    )


DECAY_STEPS = 1_000  # an epoch must have as many for the learning rate to fall by itself: fewer steps need all of it


def with_settings(config: TrainConfig, table: Table | None, num_targets: int, steps_per_epoch: int) -> TrainConfig:
    """Returns the options with those that suit the targets and the table, where they are left to these."""
    is_dense = config.model is None
    changes = settings_of(config, table, num_targets, steps_per_epoch)
    if config.decay == "auto":
        is_scaled = table is not None and any(column.scale != 1 or column.unit != 1 for column in table.columns)
        is_plain = config.callbacks is None and config.optimizer == "adam" and not isinstance(config.learning_rate, str)
        falls = is_dense and is_scaled and is_plain and steps_per_epoch >= DECAY_STEPS
        changes["decay"] = "cosine" if falls else "none"
    found = config.model_copy(update=changes)
    object.__setattr__(found, "__pydantic_fields_set__", set(config.model_fields_set))  # what the user has given
    return found
