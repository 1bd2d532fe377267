"""Horovod: one process per device or core, averaged by NCCL, MPI or Gloo.

Only Horovod's TensorFlow collectives are used; its Keras layer predates Keras 3.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

# Open MPI waits by spinning, and Horovod's thread waits most of the time: with a worker on every core it took half of
# each core. Yielding instead, two workers on two cores with --sync-every 64 went from 3.5 to 8.3 million rows/s.
os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")

import horovod.tensorflow as hvd
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from horovod.common.exceptions import HorovodInternalError

from disttrain.activity import activity
from disttrain.distributed import compiled, nccl
from disttrain.distributed.backend import BackendOptions, World
from disttrain.distributed.compiled import CollectiveLost, CompiledCollective
from disttrain.distributed.devices import configure_device, num_gpus
from disttrain.distributed.horovod_collective import HorovodCollective
from disttrain.distributed.launched import launched_on_one_machine
from disttrain.distributed.replicas import OneReplica
from disttrain.errors import UsageError

T = TypeVar("T")
Collective = HorovodCollective | CompiledCollective

LEAVE_TIMEOUT_S = 5.0
# How often Horovod's thread looks for something to reduce, in milliseconds. Its default of 1 is longer than a small
# model's step: two processes over MPI took 2.3 ms an all-reduce, and 0.16 ms at 0.01. Under the compiled collective the
# thread has nothing to do, and each look takes a core from the steps.
CYCLE_TIME_MS, IDLE_CYCLE_TIME_MS = "0.1", "10"
# Found in the error of a Horovod operation that lost a peer: the name of Horovod or of the library below it. Where the
# message only says that a connection was closed, the name of the operation's node is all that tells.
_OF_HOROVOD = re.compile("horovod|gloo|nccl|mpi_|disttrain_float", re.IGNORECASE)


def start_horovod(settings: Mapping[str, str] | None = None) -> HorovodBackend:
    """Joins the other workers, after adding `settings` to the environment, from which Horovod reads its own."""
    os.environ.setdefault("HOROVOD_CYCLE_TIME", CYCLE_TIME_MS)
    os.environ.update(settings or {})
    hvd.init()
    return HorovodBackend(World(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size()))


def open_horovod(options: BackendOptions) -> HorovodBackend:
    """Joins the other workers, configures this one's device, and chooses who sums the gradients.

    Raises:
        UsageError: if the compiled collective is asked for and cannot be used.
    """
    library, reason = None, ""
    try:
        library = load_collective(options.collective, os.environ)
        if not num_gpus():
            os.environ.setdefault("HOROVOD_CYCLE_TIME", IDLE_CYCLE_TIME_MS)
    except ImportError as error:
        reason = str(error)
    with activity("meeting the other workers", waits_for_peers=True):
        backend = start_horovod()
        configure_device(backend.world, options)
        horovod = HorovodCollective()
        collective: Collective = horovod
        reason = next((told for told in horovod.gather(reason) if told), "")
        if library is not None and not reason:
            try:
                collective = _join(library, backend.world, horovod)
            except OSError as error:
                reason = f"the workers cannot join: {error}"
    if reason and options.collective == "compiled":
        raise UsageError(f"--collective compiled: {reason}")
    return HorovodBackend(backend.world, collective, reason if options.collective == "auto" else "")


def load_collective(wanted: str, environ: Mapping[str, str]) -> ctypes.CDLL:
    """Loads the compiled collective's library; raises an ImportError that says why this run does not use it."""
    if wanted == "horovod":
        raise ImportError("--collective horovod")
    if num_gpus():
        if wanted == "auto":
            raise ImportError("the workers have GPUs")
        return nccl.load()
    if not launched_on_one_machine(environ):
        raise ImportError("the workers are on several machines")
    return compiled.load()


def _join(library: ctypes.CDLL, world: World, horovod: HorovodCollective) -> Collective:
    return nccl.join(library, world) if num_gpus() else compiled.join(library, world, horovod.gather)


class HorovodBackend:
    """The workers that `horovodrun`, `mpirun` or an MPIJob started, from one start of Horovod to its end."""

    name = "horovod"

    def __init__(self, world: World, collective: Collective | None = None, reason: str = "") -> None:
        """Takes this worker's numbers, who sums and gathers (None for Horovod), and why it is not the compiled one."""
        self.world = world
        self.replicas = OneReplica()
        self._collective = collective or HorovodCollective()
        self._reason = reason

    @property
    def fuses_steps(self) -> bool:
        """Whether the collective is the compiled one: XLA has no kernel for Horovod's on CPUs."""
        return self._collective.in_xla

    @property
    def detail(self) -> str:
        """Who sums the gradients, and why, if it is not the compiled collective."""
        return f"{self._collective.name} all-reduce" + (f", as {self._reason}" if self._reason else "")

    def reduce(self, flat: tf.Tensor, *, in_xla: bool = False) -> tf.Tensor:
        """Returns, inside a graph, the sum over all workers of a float32 or float16 vector [n]."""
        return self._collective.reduce(flat, in_xla=in_xla)

    def check(self) -> None:
        """Raises CollectiveLost if another worker ended while this one waited for it in an XLA program."""
        self._collective.check()

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the sum over all workers of a float64 array, which has the same shape on each."""
        with _waiting("a sum"):
            return self._collective.sum(values)

    def gather(self, value: T) -> Sequence[T]:
        """Returns every worker's value, in the order of ranks."""
        with _waiting("a gathering"):
            return self._collective.gather(value)

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Gives Keras variables the values that they have on the leader."""
        with _waiting("a broadcast"):
            self._collective.broadcast(variables)

    def lost_peer(self, error: BaseException) -> bool:
        """Returns whether an exception means that another worker is gone, rather than a fault of this one."""
        if isinstance(error, (HorovodInternalError, CollectiveLost)):
            return True
        if not isinstance(error, (tf.errors.UnknownError, tf.errors.AbortedError)):
            return False
        return _OF_HOROVOD.search(str(error)) is not None

    def close(self) -> None:
        """Leaves the group, so that the others stop waiting for this worker; safe to call twice."""
        self._collective.close()
        leaving = threading.Thread(target=hvd.shutdown, name="horovod-shutdown", daemon=True)
        leaving.start()
        leaving.join(LEAVE_TIMEOUT_S)  # where a peer is gone, shutting down can wait for it for ever


def _waiting(what: str) -> AbstractContextManager[None]:
    return activity("waiting for the other workers in {}", what, waits_for_peers=True)
