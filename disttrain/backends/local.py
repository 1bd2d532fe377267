"""One worker on one device: nothing to reduce, so a whole superstep is one XLA program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from disttrain.backends.devices import configure_devices
from disttrain.world import World

T = TypeVar("T")


class LocalBackend:
    """A world of one."""

    name = "local"
    fuses_steps = True

    def __init__(self, *, threads: int | None, small_model: bool) -> None:
        self.world = World()
        configure_devices(self.world, threads=threads, small_model=small_model)

    def reduce(self, flat: tf.Tensor) -> tf.Tensor:
        """The vector itself."""
        return flat

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The array itself."""
        return values

    def gather(self, value: T) -> Sequence[T]:
        """The one worker's value."""
        return [value]

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Nothing to do: there is no other worker."""

    def lost_peer(self, error: BaseException) -> bool:
        """Never: there is no other worker."""
        return False

    def close(self) -> None:
        """Nothing to leave."""
