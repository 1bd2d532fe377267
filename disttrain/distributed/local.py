"""One worker, on one device or several: nothing to average over processes.

On one device there is nothing to reduce at all, so a whole superstep is one XLA program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from disttrain.distributed.backend import BackendOptions, World
from disttrain.distributed.devices import configure_device
from disttrain.distributed.replicas import OneReplica, Replicas

T = TypeVar("T")


def open_local(options: BackendOptions) -> LocalBackend:
    """Configures the first device, and uses no other."""
    configure_device(World(), options)
    return LocalBackend("local", OneReplica())


class LocalBackend:
    """A world of one worker; its replicas reduce among themselves."""

    detail = ""

    def __init__(self, name: str, replicas: Replicas) -> None:
        self.name = name
        self.replicas = replicas
        self.world = World(num_devices=replicas.count)
        self.fuses_steps = replicas.count == 1

    def reduce(self, flat: tf.Tensor, *, in_xla: bool = False) -> tf.Tensor:
        """Returns the sum over the worker's replicas."""
        return self.replicas.reduce(flat)

    def check(self) -> None:
        """Does nothing: there is no other worker."""

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the array itself."""
        return values

    def gather(self, value: T) -> Sequence[T]:
        """Returns a list of the one worker's value."""
        return [value]

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Does nothing: there is no other worker, and replicas are assigned together."""

    def lost_peer(self, error: BaseException) -> bool:
        """Returns False: there is no other worker."""
        return False

    def close(self) -> None:
        """Does nothing: there is no group to leave."""
