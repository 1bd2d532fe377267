"""Trains an elastic run in one world after another, with all objects but its commits made anew."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from functools import partial

import keras

from disttrain.checkpoints.commits import Commits
from disttrain.config import TrainConfig
from disttrain.distributed.backend import Backend, BackendOptions
from disttrain.distributed.registry import run_elastic
from disttrain.elastic.continuity import ElasticRun
from disttrain.errors import Stopped
from disttrain.run.context import open_context
from disttrain.run.resume import save_commit
from disttrain.run.session import train
from disttrain.training.stop_signals import StopSignals
from disttrain.watchdog.watchdog import Watchdog


def train_elastic(config: TrainConfig, environ: Mapping[str, str], options: BackendOptions) -> None:
    """Trains in one world after another, as workers are lost or join, with all objects but the commits made anew.

    A signal to all workers ends the run, as it does any run. One to some of them, as when a host is preempted, ends
    only those, at the next border of supersteps, and the others go on from there. A worker that hangs is ended by the
    watchdog; where the others wait for each other's connections, these are cut, and all meet anew.
    """
    stop = StopSignals()
    watch = ExitStack()  # the last world's watchdog: it stays while all meet anew, and finds the one that does not come

    def attempt(backend: Backend, commits: Commits) -> None:
        watch.close()
        if commits.change is not None:
            _forget_models()
        abandon = commits.abandon  # this world, even if the next one has begun
        watchdog = Watchdog(
            backend.world,
            backend.gather,
            config.timeout,
            on_hang=lambda verdict: abandon(),
            consequence="the run goes on from its last commit with the workers that still can",
        )
        watch.enter_context(watchdog)
        try:
            with ExitStack() as stack:
                train(open_context(config, environ, backend, ElasticRun(environ, commits, stop), stack))
        except Stopped:
            watch.close()  # it leaves, and is not to be missed
            raise

    with stop if config.checkpoint_every != "never" else nullcontext(), watch:
        run_elastic(attempt, environ, options, stopping=lambda: stop.asked, save=partial(save_commit, config))


def _forget_models() -> None:
    """Lets Keras free earlier worlds' models, and name the next one's variables, loss and metrics as it did theirs."""
    policy = keras.config.dtype_policy()
    keras.utils.clear_session()
    keras.config.set_dtype_policy(policy)
