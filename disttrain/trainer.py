"""The epochs of a run: supersteps from the stream through the engine, then validation, losses and metrics for all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from disttrain.engine import Engine
from disttrain.errors import NonFiniteError
from disttrain.parsing import compile_kernels
from disttrain.sharding import num_full_steps, num_steps, rows_in_step, shards_of_rank
from disttrain.source import Source
from disttrain.stream import Superbatch, superbatches
from disttrain.world import Backend

# A superbatch of 2 MiB is about 1,000 steps of the job: 18 ms of work for one trip from Python into TensorFlow.
SUPERBATCH_BYTES = 2 << 20
MAX_STEPS_PER_EXECUTION = 4096


@dataclass(frozen=True)
class Pass:
    """One way through one file: the same shards and steps in every epoch."""

    source: Source
    num_shards: int
    batch_size: int
    steps_per_execution: int

    @property
    def num_steps(self) -> int:
        """Steps of an epoch, the same on every rank."""
        return num_steps(self.source.num_rows, self.num_shards, self.batch_size)

    def stream(self, shards: range) -> AbstractContextManager[Iterator[Superbatch]]:
        """The superbatches of these shards, read ahead; stops its threads when left."""
        return superbatches(
            self.source,
            shards=shards,
            num_shards=self.num_shards,
            batch_size=self.batch_size,
            steps_per_superbatch=min(self.steps_per_execution, self.num_steps),
        )

    def global_rows(self, first_step: int, count: int) -> npt.NDArray[np.int64]:
        """Rows in the global batch of each of `count` steps, int64 [count]."""
        rows = np.full(count, self.num_shards * self.batch_size, np.int64)
        num_full = num_full_steps(self.source.num_rows, self.num_shards, self.batch_size)
        for step in range(max(first_step, num_full), first_step + count):
            rows[step - first_step] = rows_in_step(self.source.num_rows, self.num_shards, self.batch_size, step)
        return rows

    def full_shape(self, shards: range) -> tuple[int, int, int] | None:
        """The shape of these shards' full superbatches, or None if the file is too short to give one."""
        num_full = num_full_steps(self.source.num_rows, self.num_shards, self.batch_size)
        steps = min(self.steps_per_execution, self.num_steps, num_full)
        return (steps, len(shards) * self.batch_size, self.source.num_columns) if steps else None

    def is_full(self, shards: range, superbatch: Superbatch) -> bool:
        """Whether each of these shards gives a whole batch to each of the superbatch's steps."""
        return superbatch.data.shape[1] == len(shards) * self.batch_size and len(shards) > 0


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to, over all workers. `epoch` counts from 1; the names of `values` are Keras's."""

    epoch: int
    values: dict[str, float]
    rows: int
    seconds: float

    @property
    def rows_per_s(self) -> float:
        """Rows trained on per second, validation apart."""
        return self.rows / self.seconds


class Reporter(Protocol):
    """What a run tells while it goes on; only the leader has one that speaks."""

    def epoch_begins(self, epoch: int) -> None:
        """Epoch `epoch`, counted from 1, is about to read its first row."""

    def steps_done(self, step: int, rows: int, loss: float) -> None:
        """So many of the epoch's steps and rows are done, at this mean loss so far."""

    def epoch_ends(self, result: EpochResult) -> None:
        """The epoch's training and validation are done."""


def plan_pass(source: Source, num_shards: int, batch_size: int, steps_per_execution: int | None) -> Pass:
    """The pass over a file, with as many steps to a superstep as the options say or the batch's bytes allow."""
    bytes_per_step = batch_size * num_shards * source.layout.num_columns * 4
    automatic = min(max(SUPERBATCH_BYTES // bytes_per_step, 1), MAX_STEPS_PER_EXECUTION)
    return Pass(source, num_shards, batch_size, steps_per_execution or automatic)


class Trainer:
    """Trains and validates, epoch after epoch, on this worker's shards."""

    def __init__(
        self, engine: Engine, backend: Backend, reporter: Reporter, training: Pass, validation: Pass | None
    ) -> None:
        self._engine = engine
        self._backend = backend
        self._reporter = reporter
        self._training = training
        self._validation = validation
        world = backend.world
        self._shards = shards_of_rank(training.num_shards, world.size, world.rank)

    def compile(self) -> float:
        """Compiles the parser and the supersteps before the first epoch's clock starts; returns the seconds taken."""
        begun_s = time.perf_counter()
        compile_kernels()
        if shape := self._training.full_shape(self._shards):
            self._engine.compile(shape, training=True)
        if self._validation is not None and (shape := self._validation.full_shape(self._shards)):
            self._engine.compile(shape, training=False)
        return time.perf_counter() - begun_s

    def run(self, epochs: int) -> list[EpochResult]:
        """All epochs' results, the same on every worker.

        Raises:
            NonFiniteError: when a step's loss is NaN or infinite, on every worker at the same step.
        """
        results = []
        for epoch in range(1, epochs + 1):
            result = self._epoch(epoch)
            self._reporter.epoch_ends(result)
            results.append(result)
        return results

    def _epoch(self, epoch: int) -> EpochResult:
        self._reporter.epoch_begins(epoch)
        begun_s = time.perf_counter()
        self._engine.reset_totals()
        loss_sum, rows = 0.0, 0
        with self._training.stream(self._shards) as stream:
            for superbatch in stream:
                count = superbatch.num_steps
                global_rows = self._training.global_rows(superbatch.first_step, count)
                full = self._training.is_full(self._shards, superbatch)
                losses = self._engine.train(superbatch.data, global_rows, full=full)
                _check_finite(losses, epoch, superbatch.first_step)
                loss_sum += float(np.dot(losses.astype(np.float64), global_rows))
                rows += int(global_rows.sum())
                self._reporter.steps_done(superbatch.first_step + count, rows, loss_sum / rows)
        totals = [self._backend.sum(total) for total in self._engine.totals]
        seconds = time.perf_counter() - begun_s
        values = {"loss": loss_sum / rows, **self._engine.metrics_from(totals)}
        self._engine.average_state()
        values.update({f"val_{name}": value for name, value in self._validate().items()})
        return EpochResult(epoch, values, rows, seconds)

    def _validate(self) -> dict[str, float]:
        if self._validation is None:
            return {}
        self._engine.reset_totals()
        loss_sum = 0.0
        with self._validation.stream(self._shards) as stream:
            for superbatch in stream:
                if superbatch.data.shape[1]:
                    global_rows = self._validation.global_rows(superbatch.first_step, superbatch.num_steps)
                    full = self._validation.is_full(self._shards, superbatch)
                    loss_sum += self._engine.evaluate(superbatch.data, global_rows, full=full)
        totals = [self._backend.sum(total) for total in self._engine.totals]
        summed = self._backend.sum(np.array([loss_sum]))
        return {"loss": float(summed[0]) / self._validation.source.num_rows, **self._engine.metrics_from(totals)}


def _check_finite(losses: npt.NDArray[np.float32], epoch: int, first_step: int) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        step = first_step + int(bad[0]) + 1
        raise NonFiniteError(
            f"epoch {epoch}, step {step}: the loss became {losses[bad[0]]}; lower --learning-rate, "
            "or look for extreme values in the data"
        )
