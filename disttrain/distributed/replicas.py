"""The copies of the model that one worker holds, one on each of its devices: here the one of a plain worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf


class Replicas(Protocol):
    """How a worker's steps run on its devices.

    A *value* is what `run` takes and returns: for each replica its part, which `results` gives one by one.
    """

    @property
    def count(self) -> int:
        """How many this worker holds."""

    @property
    def num_in_sync(self) -> int:
        """By how much Keras divides a mean loss in `run`: the replicas of the strategy, of all workers; else 1."""

    def scope(self) -> AbstractContextManager[Any]:
        """In which the model's variables are created; others, as saving the model creates, need none."""

    def index(self) -> int:
        """Inside `run`: which of this worker's replicas it is, from 0."""

    def run(self, step: Callable[..., Any], *values: Any) -> Any:
        """Calls `step` once for each replica with its part of the values; inside a graph, or eagerly."""

    def reduce(self, flat: tf.Tensor) -> tf.Tensor:
        """Inside `run`: the sum over all replicas of a float32 vector [n]."""

    def results(self, value: Any) -> list[Any]:
        """Each replica's part of a value."""

    def copy(self, arrays: Sequence[npt.NDArray[Any]]) -> Any:
        """A value of one tensor for each replica, copied to its device."""

    def read(self, variable: Any) -> npt.NDArray[Any]:
        """What each replica holds of a Keras variable, [replicas, ...]."""

    def write(self, variable: Any, arrays: npt.NDArray[Any]) -> None:
        """Gives each replica its own part of a Keras variable, [replicas, ...]."""


class OneReplica:
    """One device: every value is what it is, and adds nothing to a graph."""

    count = 1
    num_in_sync = 1

    def scope(self) -> AbstractContextManager[None]:
        """None is needed."""
        return nullcontext()

    def index(self) -> int:
        """The only one."""
        return 0

    def run(self, step: Callable[..., Any], *values: Any) -> Any:
        """Calls `step`."""
        return step(*values)

    def reduce(self, flat: tf.Tensor) -> tf.Tensor:
        """The vector."""
        return flat

    def results(self, value: Any) -> list[Any]:
        """The value."""
        return [value]

    def copy(self, arrays: Sequence[npt.NDArray[Any]]) -> tf.Tensor:
        """The one array, on TensorFlow's first device."""
        (array,) = arrays
        return tf.constant(array)

    def read(self, variable: Any) -> npt.NDArray[Any]:
        """Its value, [1, ...]."""
        return np.asarray(variable.numpy())[np.newaxis]

    def write(self, variable: Any, arrays: npt.NDArray[Any]) -> None:
        """Assigns [1, ...]."""
        variable.assign(arrays[0])
