"""Averaging weights every few steps instead of gradients in every step.

Local SGD: Stich, "Local SGD Converges Fast and Communicates Little", arXiv:1805.09767; that the optimizer's state is
averaged with the weights follows Yu, Jin and Yang, "On the Linear Speedup Analysis of Communication Efficient Momentum
SGD", arXiv:1905.03817.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from disttrain.optimizer import flatten, unflatten
from disttrain.world import Backend


class WeightAverager:
    """Gives all workers the mean of their weights and optimizer states, in one all-reduce."""

    def __init__(self, backend: Backend, variables: Sequence[Any]) -> None:
        """`variables`: Keras variables, in one order on all workers; integers among them are left as they are."""
        self._reduce = backend.reduce
        self._size = backend.world.size
        self._variables = [v for v in variables if np.issubdtype(np.dtype(v.dtype), np.floating)]
        self.average = tf.function(self._average)

    def _average(self, losses: tf.Tensor) -> tf.Tensor:
        """Averages; `losses`, this worker's parts of its steps' losses, float32 [steps], come back summed."""
        values = [tf.convert_to_tensor(v.value) for v in self._variables]
        *summed, losses = unflatten(self._reduce(flatten([*values, losses])), [*values, losses])
        for variable, total in zip(self._variables, summed, strict=True):
            variable.assign(total / self._size)
        return losses
