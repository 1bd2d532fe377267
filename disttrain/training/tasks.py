"""What a run's targets are to it: numbers, or labels of two or more classes; and the options that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from disttrain.config import TrainConfig
from disttrain.data.table.columns import Table
from disttrain.errors import UsageError
from disttrain.training.heads import classifies, labels_of

Task = Literal["regression", "binary", "multiclass"]

_SUITING = {"regression": ("numbers",), "binary": ("shares", "classes"), "multiclass": ("classes", "one-hot")}
# Of classifications: 64 and 32 units and steps of 32 rows reach on small tables what plain Keras and scikit-learn's
# MLPClassifier reach by their defaults (docs/tasks.md); the job's network of 16 and 8 units and 250 rows does not.
HIDDEN = (64, 32)
SMALL_BATCH_ROWS = 32
FEW_STEPS = 1_000  # an epoch with fewer steps of the job's batch is a small table's


def holds_labels(config: TrainConfig, target_names: Sequence[str]) -> bool:
    """Returns whether the options say that the target, whatever it holds, is a label, to be found in a vocabulary.

    Several columns are no labels: each is 0 or 1, for a class that a row may belong to.

    Raises:
        UsageError: for a loss that does not suit the task.
    """
    if config.task == "auto":
        return False
    is_given = "loss" in config.model_fields_set and config.model is None
    if is_given and labels_of(config.loss) not in _SUITING[config.task]:
        raise UsageError(f"--task {config.task}: does not suit --loss {config.loss}; leave one of them out")
    return config.task != "regression" and len(target_names) == 1


def task_of(config: TrainConfig, table: Table | None) -> Task:
    """Returns the task that was asked for or, if none was, that of the labels in the target, or of the loss."""
    if config.task != "auto":
        return config.task
    if table is not None and (labels := table.targets[0].categories):
        return "binary" if len(labels) == 2 else "multiclass"
    if config.model is None and classifies(config.loss):
        return "binary" if labels_of(config.loss) == "shares" else "multiclass"
    return "regression"


def settings_of(config: TrainConfig, table: Table | None, num_targets: int, steps_per_epoch: int) -> dict[str, Any]:
    """Returns the options that follow from the task, as far as they are left to it.

    Your own model has its loss from you, unless the task is named.
    """
    task = task_of(config, table)
    if task == "regression" or (config.model is not None and config.task == "auto"):
        return {}
    several = "binary_crossentropy" if task == "binary" else "categorical_crossentropy"
    follows: dict[str, Any] = {
        "loss": several if num_targets > 1 or task == "binary" else "sparse_categorical_crossentropy",
        "metrics": ("accuracy",),
        "hidden": HIDDEN,
    }
    if steps_per_epoch < FEW_STEPS:
        follows["batch_size"] = min(SMALL_BATCH_ROWS, config.batch_size)
    return {name: value for name, value in follows.items() if name not in config.model_fields_set}
