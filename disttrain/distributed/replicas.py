"""The copies of the model that one worker holds, one on each of its devices; here also the copy of a single device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf


class Replicas(Protocol):
    """How a worker's steps run on its devices.

    A *value* is what `run` takes and returns: one part for each replica, which `results` lists.
    """

    @property
    def count(self) -> int:
        """How many replicas this worker holds."""

    @property
    def num_in_sync(self) -> int:
        """What Keras divides a mean loss by in `run`: the strategy's replicas on all workers; 1 without a strategy."""

    def scope(self) -> AbstractContextManager[Any]:
        """Returns the context in which the model's variables are created; those made by saving a model need none."""

    def index(self) -> int:
        """Returns, inside `run`, which of this worker's replicas it is, from 0."""

    def run(self, step: Callable[..., Any], *values: Any) -> Any:
        """Calls `step` once for each replica with its part of the values; inside a graph, or eagerly."""

    def reduce(self, flat: tf.Tensor) -> tf.Tensor:
        """Returns, inside `run`, the sum over all replicas of a float32 vector [n]."""

    def results(self, value: Any) -> list[Any]:
        """Returns each replica's part of a value."""

    def copy(self, arrays: Sequence[npt.NDArray[Any]]) -> Any:
        """Copies one array to each replica's device; returns them as a value of one tensor for each replica."""

    def read(self, variable: Any) -> npt.NDArray[Any]:
        """Returns what each replica holds of a Keras variable, [replicas, ...]."""

    def write(self, variable: Any, arrays: npt.NDArray[Any]) -> None:
        """Gives each replica its own part of a Keras variable, [replicas, ...]."""


class OneReplica:
    """One device: a value is its only part, and nothing is added to a graph."""

    count = 1
    num_in_sync = 1

    def scope(self) -> AbstractContextManager[None]:
        """Returns a context that does nothing."""
        return nullcontext()

    def index(self) -> int:
        """Returns 0."""
        return 0

    def run(self, step: Callable[..., Any], *values: Any) -> Any:
        """Calls `step`."""
        return step(*values)

    def reduce(self, flat: tf.Tensor) -> tf.Tensor:
        """Returns the vector itself."""
        return flat

    def results(self, value: Any) -> list[Any]:
        """Returns a list of the value itself."""
        return [value]

    def copy(self, arrays: Sequence[npt.NDArray[Any]]) -> tf.Tensor:
        """Copies the one array to TensorFlow's first device."""
        (array,) = arrays
        return tf.constant(array)

    def read(self, variable: Any) -> npt.NDArray[Any]:
        """Returns the variable's value, [1, ...]."""
        return np.asarray(variable.numpy())[np.newaxis]

    def write(self, variable: Any, arrays: npt.NDArray[Any]) -> None:
        """Assigns the only part of [1, ...] to the variable."""
        variable.assign(arrays[0])
