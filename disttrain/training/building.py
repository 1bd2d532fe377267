"""Creates a compiled model's variables from one row, before any step, and rejects a model that cannot be trained."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from disttrain.errors import UsageError
from disttrain.training.heads import compares_outputs_elementwise
from disttrain.training.inputs import Inputs


def build(model: keras.Model, inputs: Inputs) -> None:
    """Creates every variable outside the compiled functions, which may not create any, from one row of zeros.

    Args:
        model: compiled.
        inputs: what it takes of a row.

    Raises:
        UsageError: if the model, its loss or a metric does not fit such rows.
    """
    num_targets = inputs.num_targets
    x, y, weights = inputs.split(tf.zeros([1, inputs.num_features + num_targets + inputs.is_weighted]))
    with _refused(f"the model cannot take rows of {inputs.num_features} features"):
        predictions = model(x, training=False)
    _check_outputs(model, predictions, num_targets)
    what = f"the loss cannot compare the model's output {list(predictions.shape)} with {num_targets} targets a row"
    with _refused(what):
        model.compute_loss(x, y, predictions, weights, training=False)
    with _refused(what.replace("loss", "metrics", 1)):
        model.compute_metrics(x, y, predictions, weights)
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
