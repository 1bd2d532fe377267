"""Who takes part in a run, and what every backend offers to the engine and the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from disttrain.errors import DisttrainError, PeerError

if TYPE_CHECKING:
    import tensorflow as tf

    from disttrain.distributed.replicas import Replicas

T = TypeVar("T")

SIGNAL_SPREAD_S = 0.5  # how long a signal to a launcher takes to reach all its workers


@dataclass(frozen=True)
class BackendOptions:
    """What devices and threads a backend uses, and how long it waits for other workers.

    `num_devices`: None for all there are. `threads`: of one TensorFlow operation; None for 1 if the model is small, as
    its operations are too small to split, else for the machine's cores shared by its workers. `timeout_s`: how long
    workers may take to meet; 0 for as long as it takes. `collective`: what `--collective` says.
    """

    num_devices: int | None = None
    threads: int | None = None
    small_model: bool = False
    timeout_s: float = 0
    collective: str = "auto"


@dataclass(frozen=True)
class World:
    """One worker's numbers: its `rank` among `size` workers, and its `local_rank` among `local_size` on its machine.

    Each worker drives `num_devices` devices, with a replica of the model on each.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    num_devices: int = 1

    @property
    def num_replicas(self) -> int:
        """Replicas of the model on all workers together."""
        return self.size * self.num_devices

    @property
    def is_leader(self) -> bool:
        """Whether this worker writes and prints for all."""
        return self.rank == 0


class Backend(Protocol):
    """A way of averaging over workers.

    Every method is a collective, unless it says otherwise: all workers call it, in one order.
    """

    @property
    def name(self) -> str:
        """What `--backend` calls it."""

    @property
    def world(self) -> World:
        """This worker's rank, and the number of workers."""

    @property
    def replicas(self) -> Replicas:
        """This worker's copies of the model, `world.num_devices` of them."""

    @property
    def fuses_steps(self) -> bool:
        """Whether a whole superstep, the all-reduce included, can be one XLA program."""

    @property
    def detail(self) -> str:
        """What the line that names the backend says besides, or nothing."""

    def reduce(self, flat: tf.Tensor, *, in_xla: bool = False) -> tf.Tensor:
        """Returns, inside a graph and on each replica, the sum over all replicas of all workers of a vector [n].

        `in_xla`: XLA compiles the graph, which it can only if `fuses_steps`.
        """

    def check(self) -> None:
        """Raises if another worker ended while this one waited for it in an XLA program; not a collective."""

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the sum over all workers of a float64 array, which has the same shape on each."""

    def gather(self, value: T) -> Sequence[T]:
        """Returns every worker's value, in the order of ranks; any small object that can be pickled."""

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Gives Keras variables the values that they have on the leader."""

    def lost_peer(self, error: BaseException) -> bool:
        """Returns whether an exception means that another worker is gone; not a collective."""

    def close(self) -> None:
        """Leaves the group; safe to call twice."""


def together(backend: Backend, work: Callable[[], T]) -> T:
    """Does `work` on every worker; if it failed on any, all of them stop here instead of waiting for it later.

    The lowest rank that failed raises its own error, which is the only message that a user sees. Every other rank
    raises a PeerError with the same exit code.
    """
    result: T | None = None
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failure = error
    own_code = None if failure is None else getattr(failure, "exit_code", DisttrainError.exit_code)
    outcomes = backend.gather((own_code, isinstance(failure, PeerError)))
    failed = [(is_peer, rank, code) for rank, (code, is_peer) in enumerate(outcomes) if code is not None]
    if failed:
        _, rank, code = min(failed)  # a worker that only heard of a failure comes last
        if failure is not None and backend.world.rank == rank:
            raise failure
        raise PeerError(f"rank {rank} could not start", exit_code=code)
    return result  # type: ignore[return-value]
