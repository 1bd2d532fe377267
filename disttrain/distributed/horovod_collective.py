"""Horovod's own collectives, which its thread runs by NCCL, MPI or Gloo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import horovod.tensorflow as hvd
import numpy as np
import numpy.typing as npt
import tensorflow as tf

T = TypeVar("T")


class HorovodCollective:
    """Horovod's own collectives, on several machines and on GPUs too."""

    name = "Horovod's"
    in_xla = False

    def reduce(self, flat: tf.Tensor, *, in_xla: bool) -> tf.Tensor:
        """Returns, inside a graph that XLA does not compile, the sum of a float32 or float16 vector [n].

        Workers match their all-reduces by name, and those of different graphs (a full step on one worker, a short one
        on another) must match too. So the name is fixed, one for each dtype, and its scope is ignored.
        """
        assert not in_xla
        summed = hvd.allreduce(flat, op=hvd.Sum, name=f"disttrain_{flat.dtype.name}", ignore_name_scope=True)
        summed.set_shape(flat.shape)
        return summed

    def check(self) -> None:
        """Does nothing: Horovod's operations raise errors."""

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the sum over all workers of a float64 array."""
        return np.asarray(hvd.allreduce(tf.constant(values, tf.float64), op=hvd.Sum, name="sum"))

    def gather(self, value: T) -> Sequence[T]:
        """Returns every worker's value, in the order of ranks."""
        return list(hvd.allgather_object(value, name="gather"))

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Gives Keras variables the values that they have on the leader."""
        hvd.broadcast_variables([variable.value for variable in variables], root_rank=0)

    def close(self) -> None:
        """Does nothing: the backend shuts Horovod down."""
