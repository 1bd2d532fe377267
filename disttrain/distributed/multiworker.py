"""`tf.distribute.MultiWorkerMirroredStrategy`: one process per machine, configured by TF_CONFIG.

TensorFlow's own gRPC servers and collectives do what Horovod does elsewhere. No launcher is needed, but every process
must be started with the same cluster and with its own task in it.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from disttrain.activity import activity
from disttrain.distributed.backend import BackendOptions, World
from disttrain.distributed.devices import configure_device, configure_devices, num_gpus
from disttrain.distributed.launched import cluster_rank_and_size
from disttrain.distributed.mirrored import MirroredReplicas
from disttrain.distributed.tf_config import meet
from disttrain.errors import UsageError

T = TypeVar("T")

# A gathered value is sent as one short block; if it does not fit, long blocks follow.
SHORT_BYTES, LONG_BYTES = 1 << 12, 1 << 22
# What TensorFlow's collectives raise when a peer is gone, or when another rank gave up before.
_OF_PEERS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


def open_multiworker(options: BackendOptions) -> MultiworkerBackend:
    """Starts this worker's server and meets the others of TF_CONFIG.

    Raises:
        UsageError: if TF_CONFIG does not name this worker's task among others, or its port is taken.
        HungError: if the others do not come in time.
    """
    rank_and_size = cluster_rank_and_size(os.environ)
    if rank_and_size is None:
        raise UsageError(
            "--backend multiworker needs TF_CONFIG with the cluster and this worker's task, such as "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
        )
    rank, size = rank_and_size
    if num_gpus():
        configure_devices(options)
    else:
        configure_device(World(rank, size), options)
    cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
    with activity("meeting the other workers", waits_for_peers=True):
        addresses = [*cluster.get("chief", ()), *cluster.get("worker", ())]
        meet(addresses, rank, options.timeout_s, os.environ.get("DISTTRAIN_SECRET", ""))
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=communication(num_gpus()))
        except tf.errors.UnknownError as error:
            raise UsageError(f"TF_CONFIG: this worker's server cannot start: {_first_line(error)}") from error
    return MultiworkerBackend(rank, size, strategy)


class MultiworkerBackend:
    """The workers of TF_CONFIG, each with a replica on each of its GPUs, or on its CPU."""

    name = "multiworker"
    fuses_steps = False
    detail = ""

    def __init__(self, rank: int, size: int, strategy: tf.distribute.Strategy) -> None:
        self.replicas = MirroredReplicas(strategy)
        self.world = World(rank, size, num_devices=self.replicas.count)
        self._gather_words = tf.function(lambda words: strategy.gather(words, axis=0))

    def reduce(self, flat: tf.Tensor, *, in_xla: bool = False) -> tf.Tensor:
        """Returns the sum over all replicas of all workers."""
        return self.replicas.reduce(flat)

    def check(self) -> None:
        """Does nothing: TensorFlow's own collectives raise errors."""

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the sum over all workers of a float64 array, added up in the order of ranks."""
        total: npt.NDArray[np.float64] = np.sum(self.gather(np.asarray(values, np.float64)), axis=0)
        return total

    def gather(self, value: T) -> Sequence[T]:
        """Returns every worker's value, in the order of ranks."""
        with activity("waiting for the other workers in {}", "a gathering", waits_for_peers=True):
            own = pickle.dumps(value)
            begun = self._gather_block(len(own).to_bytes(8, "little") + own[: SHORT_BYTES - 8], SHORT_BYTES)
            lengths = [int.from_bytes(block[:8], "little") for block in begun]
            parts = [block[8:] for block in begun]
            for start in range(SHORT_BYTES - 8, max(lengths), LONG_BYTES):
                blocks = self._gather_block(own[start : start + LONG_BYTES], LONG_BYTES)
                parts = [part + block for part, block in zip(parts, blocks, strict=True)]
        return [pickle.loads(part[:length]) for part, length in zip(parts, lengths, strict=True)]

    def _gather_block(self, own: bytes, size: int) -> list[bytes]:
        """Returns every worker's bytes, padded to `size`; few sizes occur, as each has a compiled collective."""
        words = np.frombuffer(own.ljust(size, b"\0"), np.int32)
        everyones = self._gather_words(self.replicas.copy([words] * self.replicas.count)).numpy()
        return [part.tobytes() for part in everyones.reshape(self.world.num_replicas, -1)[:: self.replicas.count]]

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Gives Keras variables the values that they have on the leader."""
        told = self.gather([v.numpy() for v in variables] if self.world.is_leader else None)[0]
        assert told is not None
        for variable, value in zip(variables, told, strict=True):
            variable.assign(value)

    def lost_peer(self, error: BaseException) -> bool:
        """Returns whether an exception means that another worker is gone, rather than a fault of this one."""
        return isinstance(error, _OF_PEERS)

    def close(self) -> None:
        """Does nothing: TensorFlow leaves the group when the process ends."""


def communication(num_gpus: int) -> tf.distribute.experimental.CommunicationOptions:
    """Returns options that choose NCCL between GPUs; by itself TensorFlow takes its own ring over gRPC for them too."""
    implementations = tf.distribute.experimental.CommunicationImplementation
    return tf.distribute.experimental.CommunicationOptions(
        implementation=implementations.NCCL if num_gpus else implementations.AUTO
    )


def _first_line(error: tf.errors.OpError) -> str:
    return str(error.message).strip().splitlines()[0]
