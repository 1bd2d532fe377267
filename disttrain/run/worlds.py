"""Runs a training: in one world or, where workers come and go, in one world after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import keras

from disttrain.activity import activity
from disttrain.checkpoints.commits import Commits
from disttrain.checkpoints.file import Checkpoint
from disttrain.checkpoints.record import RunRecord
from disttrain.checkpoints.store import CheckpointStore
from disttrain.config import TrainConfig
from disttrain.distributed.backend import Backend, BackendOptions
from disttrain.distributed.launched import launched_elastic
from disttrain.distributed.registry import open_backend, run_elastic
from disttrain.elastic.continuity import ElasticRun
from disttrain.errors import HungError, PeerError, Stopped
from disttrain.run.resume import RunPaths, best_by, how_to_go_on
from disttrain.run.session import Session
from disttrain.training.model import num_dense_weights
from disttrain.training.stop_signals import StopSignals
from disttrain.watchdog.watchdog import Watchdog

SMALL_MODEL_WEIGHTS = 100_000


def run_training(config: TrainConfig, environ: Mapping[str, str], on_start: Callable[[], None] = lambda: None) -> None:
    """Trains as `config` says, prints what it does on the leader, and leaves the results in the run's directory.

    Calls `on_start` once the workers of a run, unless it is elastic, have met and watch each other.

    Raises:
        DisttrainError: on the worker that failed; PeerError on the others.
        Stopped: where a signal ended the run early; its checkpoint is written.
    """
    num_weights = num_dense_weights(len(config.features) or 1, config.hidden, len(config.targets) or 1)
    small_model = config.model is None and num_weights <= SMALL_MODEL_WEIGHTS
    options = BackendOptions(config.devices, config.threads, small_model, config.timeout)
    if launched_elastic(environ) and config.backend in ("auto", "horovod"):
        _train_elastic(config, environ, options)
        return
    backend = open_backend(config.backend, environ, options)
    watchdog = Watchdog(backend.world, backend.gather, config.timeout)
    try:
        with watchdog, _lost_peer_named(backend, watchdog), ExitStack() as stack:
            on_start()
            Session(config, environ, backend, stack).train()
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
            raise PeerError("another worker ended; what it said stands above, if it could say anything") from error
        raise


def _train_elastic(config: TrainConfig, environ: Mapping[str, str], options: BackendOptions) -> None:
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
            consequence="the run goes on from its last commit without whoever cannot",
        )
        watch.enter_context(watchdog)
        try:
            with ExitStack() as stack:
                Session(config, environ, backend, stack, ElasticRun(environ, commits, stop)).train()
        except Stopped:
            watch.close()  # it leaves, and is not to be missed
            raise

    with stop if config.checkpoint_every != "never" else nullcontext(), watch:
        run_elastic(attempt, environ, options, stopping=lambda: stop.asked, save=partial(_save, config))


def _save(config: TrainConfig, commit: Checkpoint) -> str:
    """Writes a checkpoint of the last commit for a run that is stopped between two worlds; returns what to say."""
    paths = RunPaths.of(config, Path(str(RunRecord.of(commit).output)))
    store = CheckpointStore(paths.checkpoints, keep=config.keep, best_by=best_by(config))
    with store, activity("writing the last checkpoint"):
        store.save(commit)
    position = commit.position
    return f"stopped in epoch {position.epoch}, after step {position.step:,}; {how_to_go_on(paths, config)}"


def _forget_models() -> None:
    """Lets Keras free earlier worlds' models, and name the next one's variables, loss and metrics as it did theirs."""
    policy = keras.config.dtype_policy()
    keras.utils.clear_session()
    keras.config.set_dtype_policy(policy)
