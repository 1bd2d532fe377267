"""Chooses the dense network's last layer to suit its loss, and checks the names of Keras losses and metrics."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import keras

from disttrain.config import TrainConfig
from disttrain.data.table.decide import TargetUse
from disttrain.errors import UsageError

Labels = Literal["numbers", "shares", "one-hot", "classes"]


@dataclass(frozen=True)
class Head:
    """The units and the activation (None: linear) of a last layer; `takes_labels` says whether it classifies."""

    units: int
    activation: str | None = None
    takes_labels: bool = False


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
    if config.model is not None:
        return TargetUse(takes_classes=True)
    name = _full_name(config.loss)
    takes_classes = labels_of(config.loss) in ("classes", "shares") or "loss" not in config.model_fields_set
    may_shift = _SCALED.get(name, False) and all(metric in _SHIFTED_METRICS for metric in config.metrics)
    max_labels = 2 if labels_of(config.loss) == "shares" else 65_536
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
    check_loss(loss)
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
    takes_labels = labels != "numbers" and name not in ("kl_divergence", "dice", "tversky")
    return Head(units, activation if activation != "linear" else None, takes_labels)


def compares_outputs_elementwise(loss: Any) -> bool:
    """Returns whether this is a Keras loss that compares each output with its own target, and broadcasts all others."""
    if isinstance(loss, str):
        name = _full_name(loss)
    elif type(loss).__module__.startswith("keras.") or getattr(loss, "__module__", "").startswith("keras."):
        name = str(getattr(loss, "name", None) or getattr(loss, "__name__", ""))
    else:
        return False
    return name not in (*_NOT_OF_ROWS, "sparse_categorical_crossentropy")


def check_loss(name: str) -> None:
    """Raises UsageError for a loss that Keras does not know; the message suggests the nearest known name."""
    _check("--loss", name, keras.losses, "mae, mse, binary_crossentropy")


def check_metrics(names: Iterable[str]) -> None:
    """Raises UsageError for a metric that Keras does not know; the message suggests the nearest known name."""
    for name in names:
        _check("--metrics", name, keras.metrics, "mae, mse, accuracy, AUC")


def _check(option: str, name: str, module: ModuleType, examples: str) -> None:
    own = "for your own, compile the model that --model returns"
    try:
        module.get(name)
    except TypeError:
        raise UsageError(f"{option} {name}: cannot be made from its name alone ({own})") from None
    except ValueError:
        known = [*(word for word in dir(module) if not word.startswith("_")), "accuracy", "mae", "mse"]
        close = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"examples are {examples}"
        raise UsageError(f"{option} {name}: Keras knows no such name; {hint} ({own})") from None


def _full_name(loss: str) -> str:
    """Returns a loss's full name: `binary_crossentropy` for BinaryCrossentropy, bce or BCE."""
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError):
        return loss
    function = getattr(found, "fn", found)
    return str(getattr(function, "__name__", None) or getattr(found, "name", loss))
