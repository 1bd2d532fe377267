"""The optimizer that a backend wraps: gradients are summed over all workers in one all-reduce, then applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


class AllReduceOptimizer:
    """A Keras optimizer (Adam, say) that sees the gradient of the global batch.

    The Keras optimizer inside stays what it was, so a saved model holds no trace of the wrapping, and its clipping,
    averaging and loss scaling act on the reduced gradient. Horovod's own `DistributedOptimizer` predates Keras 3 and
    trains there without ever reducing.
    """

    def __init__(self, optimizer: Any, reduce: Callable[[tf.Tensor], tf.Tensor] | None) -> None:
        """`reduce` sums a float32 vector over all workers; None where there is only one."""
        self.inner = optimizer
        self._reduce = reduce

    def apply(self, gradients: Sequence[tf.Tensor | None], variables: Sequence[Any], loss: tf.Tensor) -> tf.Tensor:
        """Reduces and applies this worker's part of the gradient; returns the reduced loss, a float32 scalar.

        Args:
            gradients: one for each variable, already weighted by this worker's part of the global batch, so that
                their sum over the workers is the global batch's gradient; None where a variable has none.
            variables: the Keras variables to update.
            loss: float32 scalar, this worker's part of the loss; it rides along in the same all-reduce.
        """
        used = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        tensors = [tf.convert_to_tensor(g) for g, _ in used]
        if self._reduce is not None:
            *tensors, loss = unflatten(self._reduce(flatten([*tensors, loss])), [*tensors, loss])
        self.inner.apply(tensors, [v for _, v in used])
        return loss


def flatten(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """All elements of all tensors as one float32 vector."""
    return tf.concat([tf.reshape(tf.cast(t, tf.float32), [-1]) for t in tensors], axis=0)  # [number of all elements]


def unflatten(flat: tf.Tensor, like: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The parts of such a vector, with the shapes and dtypes of the tensors that it was made of."""
    parts = tf.split(flat, [t.shape.num_elements() for t in like])
    return [tf.cast(tf.reshape(part, t.shape), t.dtype) for part, t in zip(parts, like, strict=True)]
