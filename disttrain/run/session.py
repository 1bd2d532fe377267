"""One run in one world: its objects put together and trained, and what came of it left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import disttrain
from disttrain.activity import activity
from disttrain.checkpoints.commits import Change, RunDefaults
from disttrain.checkpoints.file import Checkpoint, Position
from disttrain.checkpoints.record import RunRecord
from disttrain.checkpoints.store import CheckpointStore
from disttrain.checkpoints.writer import CheckpointWriter
from disttrain.config import TrainConfig, default_cache_dir
from disttrain.data.csv.source import Source
from disttrain.data.superbatches import Feed
from disttrain.distributed.backend import Backend, together
from disttrain.distributed.launched import launched_rank
from disttrain.elastic.continuity import Continuity, FixedRun
from disttrain.errors import Stopped
from disttrain.option_types import Every
from disttrain.run.announce import announce_data, announce_result, announce_resumed, announce_stopping, announce_world
from disttrain.run.console import ConsoleProgress, open_console
from disttrain.run.directory import RunDirectory, default_directory
from disttrain.run.identity import new_learning_rate, record_of
from disttrain.run.inputs import Inputs
from disttrain.run.lock import RunLock
from disttrain.run.logs import History, MetricsLog
from disttrain.run.preparation import Prepared, last_layer, prepare
from disttrain.run.resume import (
    RunPaths,
    best_by,
    check_of_a_run,
    check_same_run,
    find_checkpoint,
    how_to_go_on,
    is_finished,
)
from disttrain.training.callbacks import build_callbacks
from disttrain.training.checkpointing import Checkpointing, Contents
from disttrain.training.constant import Constant, best_constant, keep_targets, load_targets
from disttrain.training.evaluator import Evaluator
from disttrain.training.findings import Findings
from disttrain.training.progress import EpochResult
from disttrain.training.reports import Regrouped, Reporter
from disttrain.training.trainer import Trainer

LAST_CHECKPOINT_S = 300.0  # how long a stopped run waits for its last checkpoint


@dataclass(frozen=True)
class Opened:
    """The files of a run, and what it goes on from: `resumed` is the record in `checkpoint`."""

    data: str
    training: Source
    validation: Source | None
    paths: RunPaths
    checkpoint: Checkpoint | None
    resumed: RunRecord | None
    num_shards: int


class Session:
    """One run's objects, or those of one world of an elastic run; what they hold open, `stack` closes."""

    def __init__(
        self,
        config: TrainConfig,
        environ: Mapping[str, str],
        backend: Backend,
        stack: ExitStack,
        continuity: Continuity | None = None,
    ) -> None:
        """`continuity` is that of a run in one world by default."""
        self.config = config
        self.backend = backend
        self.stack = stack
        self.continuity = continuity or FixedRun()
        plain = False if launched_rank(environ) is not None else None  # mpirun gives rank 0 a terminal of its own
        self.console = open_console(is_quiet=not backend.world.is_leader, is_terminal=plain)
        cache_dir = config.cache_dir or default_cache_dir(environ)
        self.inputs = Inputs(config, backend, cache_dir, self.console, stack)

    def train(self) -> None:
        """From the first look at the files to the saved model; all workers call it."""
        opened = self._open()
        prepared = self._prepare(opened)
        record = record_of(self.config, prepared.training, opened.validation, prepared.engine.model, opened.paths)
        if opened.checkpoint is not None and self._is_finished(opened.paths, opened.checkpoint, record):
            self.console.print(f"{opened.paths.output}: trained already; --epochs adds epochs, --overwrite starts anew")
            return
        self._train(opened, prepared, record)

    def _open(self) -> Opened:
        """Finds what the run goes on from, and opens its files."""
        data = self.inputs.training_data()
        own = RunDefaults(str(default_directory(data)), self.backend.world.num_replicas)
        defaults = self.continuity.settle(own, self.backend)
        named = RunPaths.of(self.config, Path(defaults.output))
        together(self.backend, lambda: self._hold(named))
        paths, checkpoint = self._find_checkpoint(named)
        resumed = RunRecord.of(checkpoint) if checkpoint is not None else None
        training = self.inputs.open(data)
        url = self.config.validation_data
        validation = self.inputs.open(url, like=training) if url else None
        kept = resumed.num_shards if resumed is not None else None
        num_shards = self.config.num_shards or kept or defaults.num_shards
        return Opened(data, training, validation, paths, checkpoint, resumed, num_shards)

    def _hold(self, paths: RunPaths) -> None:
        """On the leader: lets no other run into the directories that this one writes to."""
        if not self.backend.world.is_leader:
            return
        held = [str(paths.output)]
        if self.config.checkpoint_dir is not None and self.config.checkpoint_every != "never":
            held.append(paths.checkpoints)
        for url in dict.fromkeys(held):
            self.stack.enter_context(RunLock(url, self.console.print, self.continuity.launch))

    def _find_checkpoint(self, named: RunPaths) -> tuple[RunPaths, Checkpoint | None]:
        """Where to go on from: all workers get what it tells, and the leader its numbers too."""
        if self.continuity.last_commit is not None:
            return replace(named, resume_from=None), self.continuity.last_commit
        is_leader = self.backend.world.is_leader

        def find() -> tuple[RunPaths, Checkpoint | None]:
            paths, found = find_checkpoint(named, self.config, self.console.print)
            if found is not None:
                check_of_a_run(paths, found)
            return paths, found

        paths, found = together(self.backend, lambda: find() if is_leader else (named, None))
        paths, told = self.backend.gather((paths, (found.position, found.about) if found is not None else None))[0]
        return paths, found if told is None or is_leader else Checkpoint(*told, arrays={})

    def _prepare(self, opened: Opened) -> Prepared:
        head = last_layer(self.config, self.backend, opened.training, self.inputs)
        goes_on = opened.checkpoint is not None or self.continuity.is_elastic
        sources = (opened.training, opened.validation)
        return together(
            self.backend,
            lambda: prepare(self.config, self.backend, self.inputs, sources, head, opened.num_shards, goes_on=goes_on),
        )

    def _is_finished(self, paths: RunPaths, checkpoint: Checkpoint, record: RunRecord) -> bool:
        """Whether the run of a checkpoint, which must be this one, has nothing left to do."""
        together(self.backend, lambda: check_same_run(paths, checkpoint, record))
        # After a change the model is written in any case: one that is there may be that of an earlier run.
        if self.continuity.last_commit is not None:
            return False
        return bool(self.backend.gather(is_finished(paths, checkpoint, self.config.epochs))[0])

    def _train(self, opened: Opened, prepared: Prepared, record: RunRecord) -> None:
        config, backend, paths, checkpoint = self.config, self.backend, opened.paths, opened.checkpoint
        engine, training, validation = prepared.engine, prepared.training, prepared.validation
        num_steps = training.sharding.num_steps
        callbacks = together(
            backend, lambda: build_callbacks(config.callbacks, backend.world, engine.model, config.epochs, num_steps)
        )
        directory = together(backend, lambda: self._directory(opened))
        checkpointing = together(backend, lambda: self._checkpointing(paths, checkpoint))
        reporters = self._reporters(directory, training, checkpoint)
        if self.continuity.change is None:
            announce_data(self.console, config, opened.data, opened.training)
            announce_world(self.console, backend, training.sharding)
            if checkpoint is not None:
                announce_resumed(self.console, checkpoint)
        findings = self._findings(opened, engine.model)
        evaluator = Evaluator(engine, backend, validation, callbacks) if validation is not None else None
        trainer = Trainer(
            engine, backend, training, callbacks, checkpointing, record, evaluator=evaluator, findings=findings,
            reporters=reporters, say=self.console.print, skips_nonfinite=config.on_nonfinite == "skip",
        )  # fmt: skip
        seconds = trainer.compile()
        if self.continuity.change is None:
            self.console.print(f"Compiled the superstep in {seconds:.1f} s")
        else:
            self._tell_change(self.continuity.change, reporters, checkpoint)
        learning_rate = new_learning_rate(config, opened.num_shards, opened.resumed)
        try:
            results = trainer.run(config.epochs, checkpoint, learning_rate=learning_rate)
        except Stopped as stopped:
            self.continuity.leave_or_regroup(backend)
            # All workers stay until the leader's last checkpoint is written: a launcher ends a run with its first one.
            together(backend, lambda: self._write_last(checkpointing))
            raise Stopped(f"{stopped}; {how_to_go_on(paths, config)}") from stopped
        finally:
            for reporter in reporters:
                reporter.close()
        # All wait for the leader: an elastic run ends with the first worker that ends.
        together(backend, lambda: self._finish(results, directory, engine.model, findings.constant))

    def _directory(self, opened: Opened) -> RunDirectory | None:
        if not self.backend.world.is_leader:
            return None
        goes_on = opened.checkpoint is not None and opened.paths.resume_from is None
        directory = RunDirectory(opened.paths.output, overwrite=self.config.overwrite, goes_on=goes_on)
        if not self.continuity.is_elastic:  # else what was written belongs to the next world too
            self.stack.enter_context(directory)
        resolved = self.config.model_dump(mode="json") | {"data": opened.data, "output": str(directory.path)}
        versions = {module.__name__: module.__version__ for module in (disttrain, tf, keras, np)}
        directory.write_config(
            {**resolved, "world_size": self.backend.world.size, "backend": self.backend.name, "versions": versions}
        )
        return directory

    def _checkpointing(self, paths: RunPaths, checkpoint: Checkpoint | None) -> Checkpointing:
        config, writer = self.config, None
        every = Every.parse(config.checkpoint_every)
        say_stopping = partial(announce_stopping, self.console)
        stop = self.continuity.stop_signals(self.stack, say_stopping, catches=every is not None)
        if self.backend.world.is_leader:
            store = CheckpointStore(paths.checkpoints, keep=config.keep, best_by=best_by(config))
            self.stack.enter_context(store)
            if config.overwrite or (checkpoint is not None and paths.resume_from is None):
                store.remove_after(checkpoint.position if checkpoint is not None else None)
            if every is not None:
                writer = CheckpointWriter(store, lambda why: self.console.print(f"A checkpoint was not written: {why}"))
                self.stack.enter_context(writer)
        return Checkpointing(every or Every(), writer, stop, self.continuity.commits)

    def _reporters(
        self, directory: RunDirectory | None, training: Feed, checkpoint: Checkpoint | None
    ) -> list[Reporter]:
        """What hears of the training: nothing but on the leader."""
        if directory is None:
            return []
        sharding = training.sharding
        earlier = Contents.of(checkpoint).progress.results if checkpoint is not None else ()
        console = ConsoleProgress(
            self.console, epochs=self.config.epochs, num_steps=sharding.num_steps, num_rows=sharding.num_rows
        )
        return [console, History(directory.path, earlier), MetricsLog(directory.path)]

    def _findings(self, opened: Opened, model: keras.Model) -> Findings:
        """With what an earlier run kept of the targets, with the index; the leader's alone are asked."""
        cache_dir, source = self.inputs.cache_dir, opened.training
        kept = load_targets(cache_dir, source) if self.backend.world.is_leader else None
        constant = best_constant(model, kept) if kept is not None else None
        keep = partial(keep_targets, cache_dir, source)
        return Findings(model, self.backend, source, opened.validation, self.console.print, constant, keep)

    def _tell_change(self, change: Change, reporters: Sequence[Reporter], checkpoint: Checkpoint | None) -> None:
        """Says why there is another world than before, and keeps a record of it."""
        size, position = self.backend.world.size, checkpoint.position if checkpoint is not None else None
        self.console.print(change.news(size, position))
        position = position or Position(1, 0)
        event = Regrouped(change.why(size), size, change.num_before, position.epoch, position.step, change.seconds)
        for reporter in reporters:
            reporter.report(event)

    def _write_last(self, checkpointing: Checkpointing) -> None:
        with activity("writing the last checkpoint"):
            checkpointing.wait(LAST_CHECKPOINT_S)

    def _finish(
        self,
        results: Sequence[EpochResult],
        directory: RunDirectory | None,
        model: keras.Model,
        constant: Constant | None,
    ) -> None:
        if directory is None:
            return
        with activity("writing the model"):
            model_path = directory.write_model(model)
        announce_result(self.console, results, constant, model_path)
