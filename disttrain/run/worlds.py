"""Runs a training: in one world or, where workers come and go, in one world after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from disttrain.config import TrainConfig
from disttrain.distributed.backend import Backend, BackendOptions
from disttrain.distributed.launched import launched_elastic
from disttrain.distributed.registry import open_backend
from disttrain.elastic.continuity import FixedRun
from disttrain.errors import HungError, PeerError
from disttrain.run.context import open_context
from disttrain.run.elastic_worlds import train_elastic
from disttrain.run.session import train
from disttrain.storage.store_calls import give_up_within
from disttrain.training.model import num_dense_weights
from disttrain.watchdog.watchdog import Watchdog

SMALL_MODEL_WEIGHTS = 100_000


def run_training(config: TrainConfig, environ: Mapping[str, str], on_start: Callable[[], None] = lambda: None) -> None:
    """Trains as `config` says, prints what it does on the leader, and leaves the results in the run's directory.

    Calls `on_start` once the workers of a run, unless it is elastic, have met and watch each other.

    Raises:
        DisttrainError: on the worker that failed; PeerError on the others.
        Stopped: where a signal ended the run early; its checkpoint is written.
    """
    give_up_within(config.timeout)
    num_weights = num_dense_weights(len(config.features) or 1, config.hidden, len(config.targets) or 1)
    small_model = config.model is None and num_weights <= SMALL_MODEL_WEIGHTS
    options = BackendOptions(config.devices, config.threads, small_model, config.timeout, config.collective)
    if launched_elastic(environ) and config.backend in ("auto", "horovod"):
        train_elastic(config, environ, options)
        return
    backend = open_backend(config.backend, environ, options)
    watchdog = Watchdog(backend.world, backend.gather, config.timeout)
    try:
        with watchdog, _lost_peer_named(backend, watchdog), ExitStack() as stack:
            on_start()
            train(open_context(config, environ, backend, FixedRun(), stack))
    except PeerError as error:
        if watchdog.told_exit_code is None or error.is_explained:
            raise
        raise PeerError(str(error), watchdog.told_exit_code) from error
    finally:
        backend.close()


@contextmanager
def _lost_peer_named(backend: Backend, watchdog: Watchdog) -> Iterator[None]:
    """Turns what a lost worker makes the others' collectives raise into a PeerError.

    Or a HungError that names it, where it has not ended but fallen silent, as one on a host that is cut off: Gloo gives
    up after 30 s, which may be long before the watchdog does.
    """
    try:
        yield
    except Exception as error:
        if backend.lost_peer(error):
            if missed := watchdog.missed():
                raise HungError(missed) from error
            raise PeerError("another worker ended; its error message, if any, is above") from error
        raise
