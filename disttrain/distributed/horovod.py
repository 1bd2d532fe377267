"""Horovod: one process per device or core, averaged by NCCL, MPI or Gloo.

Only Horovod's TensorFlow collectives are used; its Keras layer predates Keras 3.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

# Horovod wakes up once a cycle to see what is ready to reduce; its default of 1 ms is longer than a small model's
# step. Measured with two processes over MPI: 2.3 ms an all-reduce at 1 ms, 0.16 ms at 0.01 ms.
os.environ.setdefault("HOROVOD_CYCLE_TIME", "0.1")
# Open MPI waits by spinning, and Horovod's thread waits most of the time: with a worker on every core it took half of
# each core. Yielding instead, two workers on two cores with --sync-every 64 went from 3.5 to 8.3 million rows/s.
os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")

import horovod.tensorflow as hvd
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from horovod.common.exceptions import HorovodInternalError

from disttrain.activity import activity
from disttrain.distributed.backend import BackendOptions, World
from disttrain.distributed.devices import configure_device
from disttrain.distributed.replicas import OneReplica

T = TypeVar("T")

LEAVE_TIMEOUT_S = 5.0
# Found in the error of a Horovod operation that lost a peer: the name of Horovod or of the library below it. Where the
# message only says that a connection was closed, the name of the operation's node is all that tells.
_OF_HOROVOD = re.compile("horovod|gloo|nccl|mpi_|disttrain_float", re.IGNORECASE)


def start_horovod(settings: Mapping[str, str] | None = None) -> HorovodBackend:
    """Joins the other workers, after adding `settings` to the environment, from which Horovod reads its own."""
    os.environ.update(settings or {})
    hvd.init()
    return HorovodBackend(World(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size()))


def open_horovod(options: BackendOptions) -> HorovodBackend:
    """Joins the other workers and configures this one's device."""
    with activity("meeting the other workers", waits_for_peers=True):
        backend = start_horovod()
    configure_device(backend.world, options)
    return backend


class HorovodBackend:
    """The workers that `horovodrun`, `mpirun` or an MPIJob started, from one start of Horovod to its end."""

    name = "horovod"
    fuses_steps = False  # XLA has no kernel for Horovod's all-reduce on CPUs

    def __init__(self, world: World) -> None:
        self.world = world
        self.replicas = OneReplica()

    def reduce(self, flat: tf.Tensor) -> tf.Tensor:
        """Returns, inside a graph, the sum over all workers of a float32 or float16 vector [n].

        Workers match their all-reduces by name, and those of different graphs (a full step on one worker, a short one
        on another) must match too. So the name is fixed, one for each dtype, and its scope is ignored.
        """
        summed = hvd.allreduce(flat, op=hvd.Sum, name=f"disttrain_{flat.dtype.name}", ignore_name_scope=True)
        summed.set_shape(flat.shape)
        return summed

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the sum over all workers of a float64 array, which has the same shape on each."""
        with _waiting("a sum"):
            return np.asarray(hvd.allreduce(tf.constant(values, tf.float64), op=hvd.Sum, name="sum"))

    def gather(self, value: T) -> Sequence[T]:
        """Returns every worker's value, in the order of ranks."""
        with _waiting("a gathering"):
            return list(hvd.allgather_object(value, name="gather"))

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Gives Keras variables the values that they have on the leader."""
        with _waiting("a broadcast"):
            hvd.broadcast_variables([variable.value for variable in variables], root_rank=0)

    def lost_peer(self, error: BaseException) -> bool:
        """Returns whether an exception means that another worker is gone, rather than a fault of this one."""
        if isinstance(error, HorovodInternalError):
            return True
        if not isinstance(error, (tf.errors.UnknownError, tf.errors.AbortedError)):
            return False
        return _OF_HOROVOD.search(str(error)) is not None

    def close(self) -> None:
        """Leaves the group, so that the others stop waiting for this worker; safe to call twice."""
        leaving = threading.Thread(target=hvd.shutdown, name="horovod-shutdown", daemon=True)
        leaving.start()
        leaving.join(LEAVE_TIMEOUT_S)  # where a peer is gone, shutting down can wait for it for ever


def _waiting(what: str) -> AbstractContextManager[None]:
    return activity("waiting for the other workers in {}", what, waits_for_peers=True)
