"""A collective that XLA programs call in every step: the workers of one machine share memory.

The part in C++ is launch/collective/, which `launch/install-horovod.sh` builds against the environment's TensorFlow.
Neither MPI nor Horovod's thread takes part in a step. See docs/records/collective.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from disttrain.distributed.backend import World
from disttrain.threads import num_cores

T = TypeVar("T")

LIBRARY = "disttrain_collective"
TARGET = "disttrain_sum"  # what XLA calls it
SHARED_FOLDER = "/dev/shm"  # files there are memory
# Of one worker's slot. All slots of a machine's workers together take 32 MB at most, as containers may have 64 MB.
SLOT_BYTES, ALL_SLOTS_BYTES, MIN_SLOT_BYTES = 4 << 20, 32 << 20, 64 << 10
# Pauses before a waiting worker sleeps, some 10 microseconds in all: sleeping and waking costs as much. A worker
# without a core of its own sleeps at once, as it would keep the one that it waits for from running.
SPINS = 300


class CollectiveLost(Exception):
    """Another worker ended while this one waited for it."""


class CompiledCollective:
    """This worker's part in what the workers of one machine sum and gather; `join` makes it."""

    name = "compiled"
    in_xla = True

    def __init__(self, library: ctypes.CDLL, world: World) -> None:
        self._library = library
        self._world = world

    def reduce(self, flat: tf.Tensor, *, in_xla: bool) -> tf.Tensor:
        """Returns the sum over all workers of a float32 or float16 vector [n], added as float32 by rank.

        If a worker ended, the sum is NaN and `check` raises.
        """
        if in_xla:
            return sum_in_xla(flat)
        summed = tf.numpy_function(self._summed, [tf.cast(flat, tf.float32)], tf.float32)
        return tf.cast(tf.ensure_shape(summed, flat.shape), flat.dtype)

    def check(self) -> None:
        """Raises CollectiveLost if a worker ended while others waited for it in `reduce`."""
        if lost := self._library.disttrain_lost():
            raise CollectiveLost(f"rank {lost - 1} ended while others waited for it")

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the sum over all workers of a float64 array, added by rank."""
        return np.asarray(sum(self.gather(np.asarray(values, np.float64))))

    def gather(self, value: T) -> Sequence[T]:
        """Returns every worker's value, in the order of ranks."""
        content = pickle.dumps(value)
        sizes = [int.from_bytes(size, "little") for size in self._gather_bytes(len(content).to_bytes(8, "little"))]
        padded = content.ljust(max(sizes), b"\0")
        step = slot_bytes(self._world.size)
        pieces = [self._gather_bytes(padded[start : start + step]) for start in range(0, len(padded), step)]
        return [pickle.loads(b"".join(own)[:size]) for own, size in zip(zip(*pieces, strict=True), sizes, strict=True)]

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Gives Keras variables the values that they have on the leader."""
        for variable in variables:
            array = np.array(variable.numpy(), order="C")
            if not self._library.disttrain_broadcast(_pointer(array), _size(array.nbytes)):
                self.check()
            variable.assign(array)

    def close(self) -> None:
        """Leaves the group; safe to call twice."""
        self._library.disttrain_leave()

    def _summed(self, own: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        own = np.ascontiguousarray(own)
        summed = np.empty_like(own)
        self._library.disttrain_sum(_pointer(own), _pointer(summed), _size(own.size))
        return summed

    def _gather_bytes(self, own: bytes) -> list[bytes]:
        size, length = self._world.size, len(own)
        everyones = ctypes.create_string_buffer(length * size)
        if not self._library.disttrain_gather(own, everyones, _size(length)):
            self.check()
        return [everyones.raw[rank * length : (rank + 1) * length] for rank in range(size)]


def sum_in_xla(flat: tf.Tensor) -> tf.Tensor:
    """Returns, inside a function that XLA compiles, what TARGET makes of a vector [n], as float32: its sum."""
    length = flat.shape.num_elements()
    own, result = tf.cast(flat, tf.float32), [tf.TensorSpec([length], tf.float32)]
    (summed,) = xla.custom_call_v2(TARGET, [own], result, backend_config=str(length), has_side_effect=True)
    return tf.cast(tf.ensure_shape(summed, [length]), flat.dtype)


def find(name: str) -> ctypes.CDLL:
    """Loads a library that is installed; raises ImportError if it is not, or does not fit this TensorFlow."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise ImportError("launch/install-horovod.sh has not built the compiled one")
    try:
        return ctypes.CDLL(found.origin)
    except OSError as error:  # a missing symbol
        raise ImportError(f"the compiled one does not load: {error}") from error


def load() -> ctypes.CDLL:
    """Loads the library and tries it alone; not in an XLA program, as XLA reads its flags when it first compiles.

    Raises:
        ImportError: if it has not been built, or does not fit this TensorFlow.
    """
    library = find(LIBRARY)
    library.disttrain_bytes.restype = ctypes.c_int64
    library.disttrain_register(TARGET.encode())
    library.disttrain_join(b"", 0, 1, _size(MIN_SLOT_BYTES), 0)
    tried = CompiledCollective(library, World()).gather("it works")
    library.disttrain_leave()
    if tried != ["it works"]:
        raise ImportError(f"the compiled one does not work: it gathers {tried}")
    return library


def join(library: ctypes.CDLL, world: World, gather: Callable[[Any], Sequence[Any]]) -> CompiledCollective:
    """Joins the other workers of this machine; a collective, that does the same on all of them.

    Args:
        library: what `load` returned.
        world: this worker's numbers; all workers are on this machine.
        gather: returns every worker's value, in the order of ranks.

    Raises:
        OSError: if any worker cannot share memory with the others.
    """
    path, failure = "", ""
    if world.is_leader:
        try:
            path = _make_memory(library.disttrain_bytes(world.size, _size(slot_bytes(world.size))))
        except OSError as error:
            failure = f"{SHARED_FOLDER}: {error.strerror}"
    path, failure = gather((path, failure))[0]
    if not failure:
        has_own_core = num_cores() >= world.local_size
        capacity, spins = _size(slot_bytes(world.size)), SPINS if has_own_core else 0
        number = library.disttrain_join(path.encode(), world.rank, world.size, capacity, spins)
        failure = f"{path}: {os.strerror(number)}" if number else ""
    failures = [told for told in gather(failure) if told]
    if world.is_leader and path:
        with contextlib.suppress(OSError):
            os.unlink(path)
    if failures:
        library.disttrain_leave()
        raise OSError(failures[0])
    return CompiledCollective(library, world)


def slot_bytes(num_workers: int) -> int:
    """Returns how many bytes a worker writes at a time; longer vectors take several turns."""
    return max(MIN_SLOT_BYTES, min(SLOT_BYTES, ALL_SLOTS_BYTES // (2 * num_workers) // 64 * 64))


def _make_memory(num_bytes: int) -> str:
    """Makes a file of zeros in memory, and returns its path; all its pages exist, so that writing cannot fail."""
    descriptor, path = tempfile.mkstemp(prefix="disttrain-", dir=SHARED_FOLDER)
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
    return path


def _size(number: int) -> ctypes.c_int64:
    return ctypes.c_int64(number)


def _pointer(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
