"""`tf.distribute.MirroredStrategy`: one process with a replica of the model on each device of a machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from disttrain.distributed.backend import BackendOptions
from disttrain.distributed.devices import configure_devices
from disttrain.distributed.local import LocalBackend
from disttrain.distributed.replicas import OneReplica


def open_mirrored(options: BackendOptions) -> LocalBackend:
    """Opens all devices of this machine, or as many as asked for; with one, there is nothing to mirror."""
    devices = configure_devices(options)
    if len(devices) == 1:
        return LocalBackend("local", OneReplica())
    return LocalBackend("mirrored", MirroredReplicas(tf.distribute.MirroredStrategy(devices)))


class MirroredReplicas:
    """The replicas of a strategy that this worker holds."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self._devices = strategy.extended.worker_devices
        self.count = len(self._devices)
        self.num_in_sync: int = strategy.num_replicas_in_sync

    def scope(self) -> AbstractContextManager[Any]:
        """Returns the strategy's scope."""
        scope: AbstractContextManager[Any] = self._strategy.scope()
        return scope

    def index(self) -> int:
        """Returns the replica's number among all replicas, less those of the workers before this one."""
        number = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
        return int(number) % self.count

    def run(self, step: Callable[..., Any], *values: Any) -> Any:
        """Calls `step` in each replica's own context."""
        run = partial(self._strategy.run, step, args=values)
        return tf.function(run)() if tf.executing_eagerly() else run()  # run eagerly it is slow, and TensorFlow warns

    def reduce(self, flat: tf.Tensor) -> tf.Tensor:
        """Returns the sum over all replicas, those of other workers included."""
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, flat)

    def results(self, value: Any) -> list[Any]:
        """Returns the parts of this worker's replicas."""
        return list(self._strategy.experimental_local_results(value))

    def copy(self, arrays: Sequence[npt.NDArray[Any]]) -> Any:
        """Copies each array to its replica's device."""

        def copy(context: tf.distribute.distribute_lib.ValueContext) -> tf.Tensor:
            index = context.replica_id_in_sync_group % self.count
            with tf.device(self._devices[index]):
                return tf.identity(tf.constant(arrays[index]))

        return self._strategy.experimental_distribute_values_from_function(copy)

    def read(self, variable: Any) -> npt.NDArray[Any]:
        """Returns the replicas' own values, even where reading the variable would sum or average them."""
        return np.stack([own.numpy() for own in self.results(variable.value)])

    def write(self, variable: Any, arrays: npt.NDArray[Any]) -> None:
        """Assigns to each replica's own part of the variable."""
        for own, array in zip(self.results(variable.value), arrays, strict=True):
            own.assign(array)
