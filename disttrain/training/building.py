"""Creates a compiled model's variables from one row, before any step, and rejects a model that cannot be trained."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from disttrain.errors import UsageError
from disttrain.training.heads import compares_outputs_elementwise


def build(model: keras.Model, num_features: int, num_targets: int) -> None:
    """Creates every variable outside the compiled functions, which may not create any, from one row of zeros.

    Args:
        model: compiled; is called with float32 [1, num_features].
        num_features: columns of a row that are not targets.
        num_targets: columns of a row that are targets.

    Raises:
        UsageError: if the model, its loss or a metric does not fit such rows.
    """
    x, y = tf.zeros([1, num_features]), tf.zeros([1, num_targets])
    with _refused(f"the model cannot take rows of {num_features} features"):
        predictions = model(x, training=False)
    _check_outputs(model, predictions, num_targets)
    what = f"the loss cannot compare the model's output {list(predictions.shape)} with {num_targets} targets a row"
    with _refused(what):
        model.compute_loss(x, y, predictions, None, training=False)
    with _refused(what.replace("loss", "metrics", 1)):
        model.compute_metrics(x, y, predictions)
    model.optimizer.build(model.trainable_variables)
    model.reset_metrics()


class _refused:  # noqa: N801 - reads as a statement
    """Turns errors that Keras raises about shapes into a UsageError that begins with `what`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (ValueError, TypeError, tf.errors.InvalidArgumentError)):
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"{self._what}: {reason}") from error


def _check_outputs(model: keras.Model, predictions: Any, num_targets: int) -> None:
    if not tf.is_tensor(predictions):
        raise UsageError(
            f"the model gives a {type(predictions).__name__}, expected one tensor [rows, units]: join several outputs "
            "with keras.layers.Concatenate"
        )
    width = int(np.prod(predictions.shape[1:]))
    if compares_outputs_elementwise(model.loss) and width != num_targets:
        raise UsageError(
            f"the model gives {width} numbers a row, expected {num_targets}, one for each target: give its last layer "
            "as many units, or choose other targets with --targets"
        )
