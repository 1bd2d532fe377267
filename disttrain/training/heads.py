"""Chooses what suits a loss: the targets that it takes, and the dense network's last layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import keras

from disttrain.config import TrainConfig
from disttrain.config.option_types import Named
from disttrain.data.table.decide import TargetUse
from disttrain.errors import UsageError
from disttrain.training.by_name import loss_of, name_of

Labels = Literal["numbers", "shares", "one-hot", "classes"]


@dataclass(frozen=True)
class Head:
    """The units and the activation (None: linear) of a last layer."""

    units: int
    activation: str | None = None


# The targets that a loss takes (numbers, shares from 0 to 1, a share for each class, or class numbers), and the
# activation whose outputs it takes. Any other loss compares numbers with the outputs of a linear layer.
_LOSSES: dict[str, tuple[Labels, str]] = {
    "binary_crossentropy": ("shares", "sigmoid"),
    "binary_focal_crossentropy": ("shares", "sigmoid"),
    "categorical_crossentropy": ("one-hot", "softmax"),
    "categorical_focal_crossentropy": ("one-hot", "softmax"),
    "categorical_hinge": ("one-hot", "linear"),
    "dice": ("shares", "sigmoid"),
    "kl_divergence": ("one-hot", "softmax"),
    "poisson": ("numbers", "softplus"),
    "sparse_categorical_crossentropy": ("classes", "softmax"),
    "tversky": ("shares", "sigmoid"),
}
_NOT_OF_ROWS = ("circle", "ctc")  # these compare embeddings and sequences


def labels_of(loss: str) -> Labels:
    """Returns the kind of targets that a Keras loss, given by any of its names, takes."""
    return _LOSSES.get(_full_name(loss), ("numbers", ""))[0]


def classifies(loss: str) -> bool:
    """Returns whether a loss compares labels with the outputs of classes, so that there is an accuracy."""
    return labels_of(loss) != "numbers" and _full_name(loss) not in ("kl_divergence", "dice", "tversky")


# Losses of numbers whose targets may be scaled; those that are true stay the same if targets and outputs are shifted.
_SCALED = {
    "mean_absolute_error": True,
    "mean_squared_error": True,
    "huber": True,
    "log_cosh": True,
    "mean_absolute_percentage_error": False,
}
_SHIFTED_METRICS = {
    *("mae", "mse", "rmse", "huber", "log_cosh", "r2_score", "mean_absolute_error", "mean_squared_error"),
    *("root_mean_squared_error", "MeanAbsoluteError", "MeanSquaredError", "RootMeanSquaredError", "R2Score"),
}


def target_use(config: TrainConfig) -> TargetUse:
    """Returns what the loss makes of the targets; your own model's outputs are in the targets' own units."""
    is_regression = config.task == "regression"
    if config.model is not None:
        return TargetUse(takes_classes=not is_regression)
    name = _full_name(config.loss)
    labels = labels_of(config.loss)
    takes_classes = not is_regression and (labels in ("classes", "shares") or "loss" not in config.model_fields_set)
    may_shift = _SCALED.get(name, False) and all(name_of(metric) in _SHIFTED_METRICS for metric in config.metrics)
    max_labels = 2 if labels == "shares" or config.task == "binary" else 65_536
    return TargetUse(takes_classes, max_labels, may_scale=name in _SCALED, may_shift=may_shift)


def head_of(loss: str, num_targets: int, num_classes: int = 0) -> Head:
    """Returns the last layer for a Keras loss.

    Args:
        loss: any of its names in Keras.
        num_targets: target columns of a row.
        num_classes: how many classes the labels name, where the loss takes class numbers.

    Raises:
        UsageError: if Keras does not know the name, or the loss cannot compare these targets.
    """
    loss_of(loss)  # which refuses what Keras does not know
    if Named.parse(loss).arguments.get("from_logits"):
        raise UsageError(f"--loss {loss}: the dense network gives probabilities: leave from_logits out")
    name = _full_name(loss)
    labels, activation = _LOSSES.get(name, ("numbers", "linear"))
    if name in _NOT_OF_ROWS:
        raise UsageError(f"--loss {loss}: does not compare columns of numbers; give a model of your own with --model")
    if labels == "one-hot" and num_targets < 2:
        raise UsageError(
            f"--loss {loss}: takes a target column for each class; for one column of class numbers (0, 1, …) use "
            "--loss sparse_categorical_crossentropy"
        )
    if labels == "classes" and num_targets > 1:
        raise UsageError(
            f"--loss {loss}: takes one target column of class numbers, not {num_targets}; for a column for each class "
            "use --loss categorical_crossentropy"
        )
    units = max(num_classes, 2) if labels == "classes" else num_targets
    return Head(units, activation if activation != "linear" else None)


def compares_outputs_elementwise(loss: Any) -> bool:
    """Returns whether this is a Keras loss that compares each output with its own target, and broadcasts all others."""
    if isinstance(loss, str):
        name = _full_name(loss)
    elif type(loss).__module__.startswith("keras.") or getattr(loss, "__module__", "").startswith("keras."):
        name = str(getattr(loss, "name", None) or getattr(loss, "__name__", ""))
    else:
        return False
    return name not in (*_NOT_OF_ROWS, "sparse_categorical_crossentropy")


def _full_name(loss: str) -> str:
    """Returns a loss's full name: `binary_crossentropy` for BinaryCrossentropy, bce or BCE, arguments or not."""
    loss = name_of(loss)
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError):
        return loss
    function = getattr(found, "fn", found)
    return str(getattr(function, "__name__", None) or getattr(found, "name", loss))
