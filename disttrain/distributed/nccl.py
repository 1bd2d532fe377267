"""The compiled collective of GPUs: XLA programs call NCCL in every step. Built, but never run (docs/gpus.md)."""

from __future__ import annotations

import ctypes

import tensorflow as tf

from disttrain.distributed.backend import World
from disttrain.distributed.compiled import TARGET, CollectiveLost, find, sum_in_xla
from disttrain.distributed.horovod_collective import HorovodCollective

LIBRARY = "disttrain_collective_nccl"


class NcclCollective(HorovodCollective):
    """Sums in XLA by NCCL, and does all else as Horovod does."""

    name = "compiled"
    in_xla = True

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def reduce(self, flat: tf.Tensor, *, in_xla: bool) -> tf.Tensor:
        """Returns the sum over all workers of a float32 or float16 vector [n]."""
        return sum_in_xla(flat) if in_xla else super().reduce(flat, in_xla=False)

    def check(self) -> None:
        """Raises CollectiveLost if NCCL reports an error."""
        if failure := self._library.disttrain_nccl_failure():
            raise CollectiveLost(f"NCCL: {self._library.disttrain_nccl_text(failure).decode()}")

    def close(self) -> None:
        """Leaves the group; safe to call twice."""
        self._library.disttrain_nccl_leave()


def load() -> ctypes.CDLL:
    """Loads the library; raises ImportError if it has not been built, or does not fit this TensorFlow."""
    library = find(LIBRARY)
    library.disttrain_nccl_text.restype = ctypes.c_char_p
    library.disttrain_nccl_register(TARGET.encode())
    return library


def join(library: ctypes.CDLL, world: World) -> NcclCollective:
    """Gives all workers what they know each other by; they meet in the first step. A collective."""
    own = ctypes.create_string_buffer(library.disttrain_nccl_id_bytes())
    collective = NcclCollective(library)
    if world.is_leader and (failure := library.disttrain_nccl_make_id(own)):
        raise OSError(f"NCCL: {library.disttrain_nccl_text(failure).decode()}")
    library.disttrain_nccl_join(collective.gather(own.raw)[0], world.rank, world.size)
    return collective
