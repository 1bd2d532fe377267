"""Puts the objects of a training run together: backend, files, model, engine, reporter, trainer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

import disttrain
from disttrain.backends import open_backend
from disttrain.cache_room import show_bytes
from disttrain.callbacks import build_callbacks
from disttrain.config import TrainConfig, default_cache_dir
from disttrain.engine import Engine
from disttrain.epoch_cache import RowCache, open_cache
from disttrain.errors import DataError, PeerError, UsageError
from disttrain.header import read_header
from disttrain.makedata import SAMPLE_ROWS, make_sample
from disttrain.model import build_model, num_dense_weights
from disttrain.plan import Pass, steps_per_superbatch
from disttrain.reporting.progress import ProgressReporter, SilentReporter, show_rate, show_values
from disttrain.reporting.results import RunDirectory, default_directory
from disttrain.sharding import shards_of_rank
from disttrain.shared_index import shared_index
from disttrain.shuffle import FILE_ORDER, EpochOrder
from disttrain.source import Source, choose_columns
from disttrain.storage import open_reader
from disttrain.trainer import EpochResult, Trainer
from disttrain.world import Backend, launched_rank, together

SMALL_MODEL_WEIGHTS = 100_000
SLOW_INDEX_S = 2.0


def run_training(config: TrainConfig, environ: Mapping[str, str]) -> None:
    """Trains as `config` says, prints what it does on the leader, and leaves the results in the run's directory.

    Raises:
        DisttrainError: on the worker that failed; PeerError on the others.
    """
    num_weights = num_dense_weights(len(config.features) or 1, config.hidden, len(config.targets) or 1)
    small_model = config.model is None and num_weights <= SMALL_MODEL_WEIGHTS
    backend = open_backend(config.backend, environ, threads=config.threads, small_model=small_model)
    try:
        with ExitStack() as stack:
            _Run(config, environ, backend, stack).train()
    except Exception as error:
        if backend.lost_peer(error):
            raise PeerError("another worker ended; what it said stands above, if it could say anything") from error
        raise
    finally:
        backend.close()


class _Run:
    """One run's objects; what they hold open, `stack` closes."""

    def __init__(self, config: TrainConfig, environ: Mapping[str, str], backend: Backend, stack: ExitStack) -> None:
        self.config = config
        self.backend = backend
        self.stack = stack
        self.cache_dir = config.cache_dir or default_cache_dir(environ)
        plain = False if launched_rank(environ) is not None else None  # mpirun gives rank 0 a terminal of its own
        self.console = Console(quiet=not backend.world.is_leader, force_terminal=plain, highlight=False, soft_wrap=True)

    def train(self) -> None:
        config, world = self.config, self.backend.world
        data = self._data()
        training_source = self._open(data)
        validation_source = self._open(config.validation_data, like=training_source) if config.validation_data else None
        num_shards = config.num_shards or world.size
        engine, training, validation = together(
            self.backend, lambda: self._prepare(training_source, validation_source, num_shards)
        )
        engine.synchronize()
        callbacks = together(
            self.backend,
            lambda: build_callbacks(config.callbacks, world, engine.model, config.epochs, training.num_steps),
        )
        directory = together(self.backend, lambda: self._directory(data))
        reporter = self._reporter(directory, training)
        self._announce(data, training)
        trainer = Trainer(engine, self.backend, reporter, callbacks, training, validation)
        seconds = trainer.compile()
        self.console.print(f"Compiled the superstep in {seconds:.1f} s")
        try:
            results = trainer.run(config.epochs)
        finally:
            reporter.close()
        if directory is not None:
            self._finish(results, directory, engine)

    def _data(self) -> str:
        """The file to train on; the sample, made by one worker a machine, where none is named."""
        if self.config.data is not None:
            return self.config.data
        is_maker = self.backend.world.local_rank == 0
        made = together(self.backend, lambda: make_sample(self.cache_dir) if is_maker else None)
        sample = made or make_sample(self.cache_dir)
        self.console.print(f"No --data: training on the built-in sample, y = x, {SAMPLE_ROWS:,} rows")
        return str(sample)

    def _open(self, url: str, like: Source | None = None) -> Source:
        """Opens and indexes a file; a validation file must have the columns of the training file."""
        config = self.config

        def open_source() -> Source:
            return Source.open(
                url,
                features=like.feature_names if like else config.features or None,
                targets=like.target_names if like else config.targets or None,
                header=config.header,
                delimiter=config.delimiter,
                cache_dir=self.cache_dir,
                make_index=lambda reader, header: shared_index(self.backend, reader, header, self.cache_dir),
            )

        together(self.backend, lambda: check_columns(url, config, like))
        begun_s = time.monotonic()
        source = self.stack.enter_context(together(self.backend, open_source))
        seconds = time.monotonic() - begun_s
        if seconds > SLOW_INDEX_S:
            self.console.print(f"Indexed {url}: {source.num_rows:,} rows in {seconds:.1f} s; kept for the next run")
        return source

    def _prepare(
        self, source: Source, validation_source: Source | None, num_shards: int
    ) -> tuple[Engine, Pass, Pass | None]:
        config, size = self.config, self.backend.world.size
        if num_shards < size:
            raise UsageError(f"--num-shards {num_shards} leaves some of the {size} workers without a shard")
        if source.num_rows < num_shards:
            raise DataError(
                f"{source.url}: cannot give each of {num_shards} shards a row, having {source.num_rows}; "
                "use fewer workers"
            )
        training = self._plan(source, num_shards, EpochOrder(config.shuffle, config.seed))
        validation = self._plan(validation_source, num_shards, FILE_ORDER) if validation_source is not None else None
        num_features = len(source.feature_names)
        model = build_model(config, num_features, len(source.target_names))
        return Engine(model, self.backend, num_features, config.sync_every), training, validation

    def _plan(self, source: Source, num_shards: int, order: EpochOrder) -> Pass:
        config = self.config
        most_held = len(shards_of_rank(num_shards, self.backend.world.size, 0))
        steps = steps_per_superbatch(
            source, most_held, config.batch_size, config.steps_per_execution, multiple_of=config.sync_every
        )
        return Pass(source, num_shards, config.batch_size, steps, order, self._cache(source, order))

    def _cache(self, source: Source, order: EpochOrder) -> RowCache | None:
        config, world = self.config, self.backend.world
        if config.cache is None:
            return None
        part = 1.0 if order.mode == "global" else world.local_size / world.size  # of the rows comes to this machine
        planned_rows = math.ceil(source.num_rows * part)
        cache = open_cache(
            config.cache.expanduser(),
            source,
            limit_bytes=config.cache_limit,
            planned_rows=planned_rows,
            warns=world.local_rank == 0,
        )
        if cache is not None:
            self.stack.enter_context(cache)
            self.console.print(
                f"Cache {cache.path}: {show_bytes(planned_rows * source.num_columns * 4)} for {planned_rows:,} rows, "
                f"of which {cache.num_rows:,} are there"
            )
        return cache

    def _directory(self, data: str) -> RunDirectory | None:
        if not self.backend.world.is_leader:
            return None
        path = self.config.output or default_directory(data)
        directory = self.stack.enter_context(RunDirectory(path, overwrite=self.config.overwrite))
        resolved = self.config.model_dump(mode="json") | {"data": data, "output": str(directory.path)}
        versions = {module.__name__: module.__version__ for module in (disttrain, tf, keras, np)}
        directory.write_config(
            {**resolved, "world_size": self.backend.world.size, "backend": self.backend.name, "versions": versions}
        )
        return directory

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

    def _announce(self, data: str, training: Pass) -> None:
        size = self.backend.world.size
        workers = f"{size} workers" if size > 1 else "1 worker"
        self.console.print(
            f"{data}: {training.source.num_rows:,} rows, {', '.join(training.source.feature_names)} -> "
            f"{', '.join(training.source.target_names)}"
        )
        self.console.print(
            f"{self.backend.name} backend, {workers}, {training.num_shards} x {training.batch_size:,} rows a step, "
            f"{training.num_steps:,} steps an epoch"
        )

    def _finish(self, results: list[EpochResult], directory: RunDirectory, engine: Engine) -> None:
        model_path = directory.write_model(engine.model)
        rate = sum(result.rows for result in results) / sum(result.seconds for result in results)
        self.console.print(f"Done: {show_values(results[-1].values)} · {show_rate(rate)}")
        self.console.print(f"Model: {model_path}")


def check_columns(url: str, config: TrainConfig, like: Source | None) -> None:
    """Raises what is wrong with a file's name, header or columns, before the workers index it together."""
    with open_reader(url) as reader:
        header = read_header(reader, mode=config.header, delimiter=config.delimiter)
        choose_columns(
            header.names,
            like.feature_names if like else config.features or None,
            like.target_names if like else config.targets or None,
            where=url,
        )
