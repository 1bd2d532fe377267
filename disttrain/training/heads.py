"""The dense network's last layer, as its loss wants it, and the names by which Keras knows losses and metrics."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import keras

from disttrain.errors import UsageError

Labels = Literal["numbers", "shares", "one-hot", "classes"]


@dataclass(frozen=True)
class Head:
    """The units and the activation (None: linear) of a last layer; `takes_labels` where it tells classes apart."""

    units: int
    activation: str | None = None
    takes_labels: bool = False


# What a loss compares: numbers, shares (each from 0 to 1), a share for each class, or a class's number; and of what
# activation. Any other loss takes numbers from a linear layer.
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
_NOT_OF_ROWS = ("circle", "ctc")  # of embeddings, of sequences


def labels_of(loss: str) -> Labels:
    """What a loss of Keras's, by any of its names, compares with the model's outputs."""
    return _LOSSES.get(_full_name(loss), ("numbers", ""))[0]


def head_of(loss: str, num_targets: int, num_classes: int = 0) -> Head:
    """The last layer for a loss of Keras's.

    Args:
        loss: by any of Keras's names.
        num_targets: target columns of a row.
        num_classes: how many the labels name, where the loss takes classes' numbers.

    Raises:
        UsageError: for a name that Keras does not know, and for a loss that cannot compare these targets.
    """
    check_loss(loss)
    name = _full_name(loss)
    labels, activation = _LOSSES.get(name, ("numbers", "linear"))
    if name in _NOT_OF_ROWS:
        raise UsageError(f"--loss {loss}: compares no columns of numbers; give a model of your own with --model")
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


def compares_like_with_like(loss: Any) -> bool:
    """Whether a loss is one of Keras's that compares each output with a target of its own; it would stretch others."""
    if isinstance(loss, str):
        name = _full_name(loss)
    elif type(loss).__module__.startswith("keras.") or getattr(loss, "__module__", "").startswith("keras."):
        name = str(getattr(loss, "name", None) or getattr(loss, "__name__", ""))
    else:
        return False
    return name not in (*_NOT_OF_ROWS, "sparse_categorical_crossentropy")


def check_loss(name: str) -> None:
    """Raises UsageError for a loss that Keras does not know, with the nearest that it does."""
    _check("--loss", name, keras.losses, "mae, mse, binary_crossentropy")


def check_metrics(names: Iterable[str]) -> None:
    """Raises UsageError for a metric that Keras does not know, with the nearest that it does."""
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
    """`binary_crossentropy` for any name of it: BinaryCrossentropy, bce, BCE."""
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError):
        return loss
    name = found.name if isinstance(found, keras.losses.Loss) else getattr(found, "__name__", loss)
    return str(name)
