"""Runs a training: in one world or, where workers come and go, in one world after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from disttrain.config import TrainConfig
from disttrain.distributed.backend import BackendOptions
from disttrain.distributed.launched import launched_elastic
from disttrain.elastic.continuity import FixedRun
from disttrain.run.context import open_context
from disttrain.run.elastic_worlds import train_elastic
from disttrain.run.session import train
from disttrain.run.watched_world import watched_world
from disttrain.storage.store_calls import give_up_within
from disttrain.training.model import num_dense_weights

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
    with watched_world(config, environ, options, on_start) as (backend, stack):
        train(open_context(config, environ, backend, FixedRun(), stack))
