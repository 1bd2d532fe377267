"""One run in one world: its objects put together and trained, and what came of it left behind."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import disttrain
from disttrain.activity import activity
from disttrain.callbacks import build_callbacks
from disttrain.checkpoint import Checkpoint, Position
from disttrain.checkpoint_store import CheckpointStore
from disttrain.checkpoint_writer import CheckpointWriter
from disttrain.commits import Beginning, Commits, WorldChanged
from disttrain.config import Every, TrainConfig, default_cache_dir
from disttrain.constant import Constant, best_constant, keep_targets, load_targets
from disttrain.engine import Engine
from disttrain.errors import DataError, Stopped, UsageError
from disttrain.findings import Findings
from disttrain.heads import Head, head_of, labels_of
from disttrain.inputs import Inputs
from disttrain.keeper import Keeper
from disttrain.labels import check_shares, num_classes
from disttrain.model import build_model
from disttrain.plan import Pass
from disttrain.reporting.progress import (
    ProgressReporter,
    SilentReporter,
    open_console,
    show_number,
    show_rate,
    show_values,
)
from disttrain.reporting.results import RunDirectory, default_directory
from disttrain.resume_point import (
    Places,
    best_by,
    check_keep_best,
    check_of_a_run,
    check_same_run,
    describe_run,
    find_checkpoint,
    how_to_go_on,
    is_finished,
    kept_setting,
    metric_names,
    new_learning_rate,
    show_position,
)
from disttrain.run_lock import RunLock, launch_of
from disttrain.sharding import shards_of_rank
from disttrain.shuffle import FILE_ORDER, EpochOrder
from disttrain.source import Source, listed, remarks
from disttrain.standing import EpochResult, Standing
from disttrain.stopping import StopSignals
from disttrain.trainer import Trainer
from disttrain.world import SIGNALS_S, Backend, launched_rank, together

MAX_COLUMNS_SHOWN = 8  # in the line that begins a run
LAST_CHECKPOINT_S = 300.0  # how long a stopped run waits for its last checkpoint


@dataclass(frozen=True)
class Elastic:
    """What outlasts the worlds of an elastic run."""

    commits: Commits
    stop: StopSignals


class Session:
    """One run's objects, or those of one world of an `elastic` run; what they hold open, `stack` closes."""

    def __init__(
        self,
        config: TrainConfig,
        environ: Mapping[str, str],
        backend: Backend,
        stack: ExitStack,
        elastic: Elastic | None = None,
    ) -> None:
        self.config = config
        self.backend = backend
        self.stack = stack
        self.elastic = elastic
        self._launch = launch_of(environ) if elastic is not None else ""
        self._committed = elastic.commits.last if elastic is not None else None
        plain = False if launched_rank(environ) is not None else None  # mpirun gives rank 0 a terminal of its own
        self.console = open_console(is_quiet=not backend.world.is_leader, is_terminal=plain)
        cache_dir = config.cache_dir or default_cache_dir(environ)
        self.inputs = Inputs(config, backend, cache_dir, self.console, stack)

    def train(self) -> None:
        """From the first look at the files to the saved model; all workers call it."""
        config, world = self.config, self.backend.world
        data = self.inputs.training_data()
        beginning = self._beginning(data)
        named = Places.of(config, Path(beginning.output))
        together(self.backend, lambda: self._hold(named))
        places, checkpoint = self._find_checkpoint(named)
        training_source = self.inputs.open(data)
        validation_data = config.validation_data
        validation_source = self.inputs.open(validation_data, like=training_source) if validation_data else None
        num_shards = config.num_shards or kept_setting(checkpoint, "num_shards", beginning.num_shards)
        head = self._head(training_source)
        engine, training, validation = together(
            self.backend, lambda: self._prepare(training_source, validation_source, head, num_shards, checkpoint)
        )
        run = describe_run(config, training, validation, engine.model, places)
        if checkpoint is not None:
            together(self.backend, lambda: check_same_run(places, checkpoint, run))
            # After a change the model is written in any case: one that is there may be that of an earlier run.
            if self._committed is None and self.backend.gather(is_finished(places, checkpoint, config.epochs))[0]:
                self.console.print(f"{places.output}: trained already; --epochs adds epochs, --overwrite starts anew")
                return
        callbacks = together(
            self.backend,
            lambda: build_callbacks(config.callbacks, world, engine.model, config.epochs, training.num_steps),
        )
        directory = together(self.backend, lambda: self._directory(places, data, checkpoint))
        keeper, writer = together(self.backend, lambda: self._keeper(directory, places, checkpoint, run))
        reporter = self._reporter(directory, training)
        if self.elastic is None or self.elastic.commits.change is None:
            self._announce(data, training, checkpoint)
        findings = self._findings(engine, training, validation, reporter)
        trainer = Trainer(
            engine, self.backend, reporter, callbacks, training, validation, keeper,
            skips_nonfinite=config.on_nonfinite == "skip", findings=findings,
        )  # fmt: skip
        seconds = trainer.compile()
        if not self._tell_change(directory, checkpoint):
            self.console.print(f"Compiled the superstep in {seconds:.1f} s")
        try:
            results = trainer.run(
                config.epochs, checkpoint, learning_rate=new_learning_rate(config, num_shards, checkpoint)
            )
        except Stopped as stopped:
            self._part()
            self._wait_for(writer)
            raise Stopped(f"{stopped}; {how_to_go_on(places, config)}") from stopped
        finally:
            reporter.close()
        # All wait for the leader: an elastic run ends with the first worker that ends.
        together(self.backend, lambda: self._finish(results, directory, engine, findings.constant))

    def _beginning(self, data: str) -> Beginning:
        """The default output and number of shards; in all worlds of an elastic run those of the first one."""
        own = Beginning(str(default_directory(data)), self.backend.world.num_replicas)
        if self.elastic is None:
            return own
        if self._committed is not None:
            run = self._committed.about["run"]
            return Beginning(run["output"], run["num_shards"])
        commits = self.elastic.commits
        commits.beginning = commits.beginning or self.backend.gather(own)[0]
        return commits.beginning

    def _hold(self, places: Places) -> None:
        """On the leader: lets no other run into the directories that this one writes to."""
        if not self.backend.world.is_leader:
            return
        held = [str(places.output)]
        if self.config.checkpoint_dir is not None and self.config.checkpoint_every != "never":
            held.append(places.checkpoints)
        for url in dict.fromkeys(held):
            self.stack.enter_context(RunLock(url, self.console.print, self._launch))

    def _find_checkpoint(self, named: Places) -> tuple[Places, Checkpoint | None]:
        """Where to go on from: all workers get what it tells, and the leader its numbers too."""
        if self._committed is not None:
            return replace(named, named_elsewhere=None), self._committed
        is_leader, say = self.backend.world.is_leader, self.console.print

        def find() -> tuple[Places, Checkpoint | None]:
            places, found = find_checkpoint(named, self.config, say)
            if found is not None:
                check_of_a_run(places, found)
            return places, found

        places, found = together(self.backend, lambda: find() if is_leader else (named, None))
        places, told = self.backend.gather((places, (found.position, found.about) if found is not None else None))[0]
        return places, found if told is None or is_leader else Checkpoint(*told, arrays={})

    def _head(self, source: Source) -> Head:
        """The dense network's last layer; where its loss takes labels, the file's are looked at."""
        loss, num_targets = self.config.loss, len(source.target_names)
        if self.config.model is not None:
            return Head(num_targets)
        head = together(self.backend, lambda: head_of(loss, num_targets))
        labels = labels_of(loss)
        if labels == "classes":
            return head_of(loss, num_targets, num_classes(self.backend, source, self.inputs.cache_dir, loss))
        if labels != "numbers":
            check_shares(self.backend, source, self.inputs.cache_dir, loss)
        return head

    def _prepare(
        self,
        source: Source,
        validation_source: Source | None,
        head: Head,
        num_shards: int,
        checkpoint: Checkpoint | None,
    ) -> tuple[Engine, Pass, Pass | None]:
        config, size = self.config, self.backend.world.num_replicas
        if num_shards < size and checkpoint is None and self.elastic is None:
            raise UsageError(f"--num-shards {num_shards} leaves some of the {size} {self._kind} without a shard")
        if source.num_rows < num_shards:
            raise DataError(
                f"{source.url}: cannot give each of {num_shards} shards a row, having {source.num_rows}; "
                "use fewer workers"
            )
        training = self.inputs.plan(source, num_shards, EpochOrder(config.shuffle, config.seed))
        validation = (
            self.inputs.plan(validation_source, num_shards, FILE_ORDER) if validation_source is not None else None
        )
        num_features = len(source.feature_names)
        shape = training.full_shape(shards_of_rank(num_shards, self.backend.world.size, self.backend.world.rank))
        skips = config.on_nonfinite == "skip"
        with self.backend.replicas.scope():
            model = build_model(
                config, num_features, len(source.target_names), head=head,
                num_shards=num_shards, steps_per_epoch=training.num_steps,
            )  # fmt: skip
            engine = Engine(
                model, self.backend, num_features, config.sync_every,
                num_targets=len(source.target_names), rows_per_step=shape[1] if shape else 0,
                skips_nonfinite=skips, compresses=config.compression == "fp16",
            )  # fmt: skip
        check_keep_best(config, metric_names(model, scalars=True))
        return engine, training, validation

    def _directory(self, places: Places, data: str, checkpoint: Checkpoint | None) -> RunDirectory | None:
        if not self.backend.world.is_leader:
            return None
        directory = RunDirectory(
            places.output,
            overwrite=self.config.overwrite,
            goes_on=checkpoint is not None and places.named_elsewhere is None,
            earlier=Standing.from_json(checkpoint.about["standing"]).results if checkpoint is not None else (),
        )
        if self.elastic is None:  # else what was written belongs to the next world too
            self.stack.enter_context(directory)
        resolved = self.config.model_dump(mode="json") | {"data": data, "output": str(directory.path)}
        versions = {module.__name__: module.__version__ for module in (disttrain, tf, keras, np)}
        directory.write_config(
            {**resolved, "world_size": self.backend.world.size, "backend": self.backend.name, "versions": versions}
        )
        return directory

    def _keeper(
        self, directory: RunDirectory | None, places: Places, checkpoint: Checkpoint | None, run: Mapping[str, Any]
    ) -> tuple[Keeper, CheckpointWriter | None]:
        config, writer = self.config, None
        every = Every.parse(config.checkpoint_every)
        stop = self.elastic.stop if self.elastic is not None else StopSignals(self._say_stopping)
        if every is not None and self.elastic is None:
            self.stack.enter_context(stop)
        if directory is not None:
            store = CheckpointStore(places.checkpoints, keep=config.keep, best_by=best_by(config))
            self.stack.enter_context(store)
            if config.overwrite or (checkpoint is not None and places.named_elsewhere is None):
                store.remove_after(checkpoint.position if checkpoint is not None else None)
            if every is not None:
                writer = CheckpointWriter(store, lambda why: self.console.print(f"A checkpoint was not written: {why}"))
                self.stack.enter_context(writer)
        commits = self.elastic.commits if self.elastic is not None else None
        return Keeper(every or Every(), writer, stop, lambda: {"run": run}, commits), writer

    def _tell_change(self, directory: RunDirectory | None, checkpoint: Checkpoint | None) -> bool:
        """Says why there is another world than before, if there is, and keeps a record of it."""
        change = self.elastic.commits.change if self.elastic is not None else None
        if change is not None and directory is not None:
            size, position = self.backend.world.size, checkpoint.position if checkpoint is not None else Position(1, 0)
            self.console.print(change.news(size, checkpoint.position if checkpoint is not None else None))
            directory.append_metrics(
                {"event": "world", "why": change.why(size), "workers": size, "workers_before": change.num_before}
                | {"epoch": position.epoch, "step": position.step, "seconds": round(change.seconds, 3)}
            )
        return change is not None

    def _part(self) -> None:
        """At a border where some workers of an elastic run were asked to stop, others not: those go on without them."""
        if self.elastic is None:
            return
        time.sleep(SIGNALS_S)
        asked = self.elastic.stop.asked
        if all(self.backend.gather(asked)):
            return
        if asked:
            raise Stopped("this worker was asked to stop, and leaves; the others go on", is_shared=False)
        raise WorldChanged

    def _wait_for(self, writer: CheckpointWriter | None) -> None:
        """All workers stay until the leader's last checkpoint is written: launchers end a run with its first worker."""

        def wait() -> None:
            if writer is not None:
                with activity("writing the last checkpoint"):
                    writer.wait(LAST_CHECKPOINT_S)

        together(self.backend, wait)

    def _say_stopping(self, name: str) -> None:
        self.console.print(f"{name}: stopping at the end of this superstep, with a checkpoint; Ctrl-C ends at once")

    def _reporter(self, directory: RunDirectory | None, training: Pass) -> ProgressReporter | SilentReporter:
        if directory is None:
            return SilentReporter()
        return ProgressReporter(
            self.console,
            directory,
            epochs=self.config.epochs,
            num_steps=training.num_steps,
            num_rows=training.source.num_rows,
        )

    def _announce(self, data: str, training: Pass, checkpoint: Checkpoint | None) -> None:
        world = self.backend.world
        size = world.num_replicas
        workers = f"{world.size} workers" if world.size > 1 else "1 worker"
        if world.num_devices > 1:
            workers += f" of {world.num_devices} devices"
        source = training.source
        for remark in remarks(source.header, self.config.header, self.config.features, source.target_names):
            self.console.print(remark)
        self.console.print(
            f"{data}: {source.num_rows:,} rows, {_columns(source.feature_names)} -> {_columns(source.target_names)}"
        )
        self.console.print(
            f"{self.backend.name} backend, {workers}, {training.num_shards} x {training.batch_size:,} rows a step, "
            f"{training.num_steps:,} steps an epoch"
        )
        if size > training.num_shards:
            idle = size - training.num_shards
            self.console.print(f"{idle} {self._kind} have no shard: there are {training.num_shards}")
        if checkpoint is not None:
            self.console.print(f"Going on from the checkpoint of {show_position(checkpoint.position)}")

    @property
    def _kind(self) -> str:
        return "devices" if self.backend.world.num_devices > 1 else "workers"

    def _findings(
        self, engine: Engine, training: Pass, validation: Pass | None, reporter: ProgressReporter | SilentReporter
    ) -> Findings:
        """With what an earlier run kept of the targets, with the index; the leader's alone are asked."""
        cache_dir, source = self.inputs.cache_dir, training.source
        kept = load_targets(cache_dir, source) if self.backend.world.is_leader else None
        constant = best_constant(engine.model, kept) if kept is not None else None
        keep = partial(keep_targets, cache_dir, source)
        return Findings(engine.model, self.backend, training, validation, reporter.says, constant, keep)

    def _finish(
        self, results: list[EpochResult], directory: RunDirectory | None, engine: Engine, constant: Constant | None
    ) -> None:
        if directory is None:
            return
        with activity("writing the model"):
            model_path = directory.write_model(engine.model)
        rate = sum(result.rows for result in results) / sum(result.seconds for result in results)
        beside = f" (a constant's: {show_number(constant.loss)})" if constant is not None else ""
        loss, *others = (show_values({name: value}) for name, value in results[-1].values.items())
        self.console.print(f"Done: {' · '.join([loss + beside, *others, show_rate(rate)])}")
        self.console.print(f"Model: {model_path}")


def _columns(names: Sequence[str]) -> str:
    return listed(names, MAX_COLUMNS_SHOWN) + (f" ({len(names)} in all)" if len(names) > MAX_COLUMNS_SHOWN else "")
