"""The epochs of a run: supersteps from the stream through the engine, then validation, losses and metrics for all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from keras.callbacks import CallbackList

from disttrain.engine import Engine
from disttrain.errors import NonFiniteError
from disttrain.parsing import compile_kernels
from disttrain.plan import Pass
from disttrain.sharding import shards_of_rank
from disttrain.shuffle import compile_permutation
from disttrain.stream import Superbatch
from disttrain.world import Backend


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


@dataclass
class _Progress:
    """What an epoch has come to so far, over all workers."""

    steps: int = 0
    rows: int = 0
    loss_sum: float = 0.0

    def add(self, losses: npt.NDArray[np.float32], global_rows: npt.NDArray[np.int64]) -> None:
        """Counts steps with these losses, float32 [steps], and rows, int64 [steps]."""
        self.steps += len(losses)
        self.rows += int(global_rows.sum())
        self.loss_sum += float(np.dot(losses.astype(np.float64), global_rows))

    @property
    def loss(self) -> float:
        """The mean loss of the rows so far."""
        return self.loss_sum / self.rows


class Trainer:
    """Trains and validates, epoch after epoch, on this worker's shards."""

    def __init__(
        self,
        engine: Engine,
        backend: Backend,
        reporter: Reporter,
        callbacks: CallbackList,
        training: Pass,
        validation: Pass | None,
    ) -> None:
        self._engine = engine
        self._backend = backend
        self._reporter = reporter
        self._callbacks = callbacks
        self._training = training
        self._validation = validation
        world = backend.world
        self._shards = shards_of_rank(training.num_shards, world.size, world.rank)

    def compile(self) -> float:
        """Compiles the parser and the supersteps before the first epoch's clock starts; returns the seconds taken."""
        begun_s = time.perf_counter()
        compile_kernels()
        if self._training.order.mode != "none":
            compile_permutation()
        if shape := self._training.full_shape(self._shards):
            self._engine.compile(shape, training=True)
        if self._validation is not None and (shape := self._validation.full_shape(self._shards)):
            self._engine.compile(shape, training=False)
        return time.perf_counter() - begun_s

    def run(self, epochs: int) -> list[EpochResult]:
        """All epochs' results, the same on every worker; fewer than `epochs` where a callback stops the training.

        Callbacks see each superstep as one batch, whose number is that of its last step, as with Keras's own
        `steps_per_execution`.

        Raises:
            NonFiniteError: when a step's loss is NaN or infinite, on every worker at the same step.
        """
        results = []
        self._engine.model.stop_training = False
        self._callbacks.on_train_begin()
        for epoch in range(1, epochs + 1):
            results.append(self._epoch(epoch))
            if self._engine.model.stop_training:
                break
        self._engine.finalize()
        self._callbacks.on_train_end(results[-1].values)
        return results

    def _epoch(self, epoch: int) -> EpochResult:
        self._reporter.epoch_begins(epoch)
        self._callbacks.on_epoch_begin(epoch - 1)
        begun_s = time.perf_counter()
        self._engine.reset_totals()
        progress = _Progress()
        with self._training.stream(self._shards, epoch) as stream:
            for superbatch in stream:
                self._train_on(superbatch, progress, epoch)
        totals = [self._backend.sum(total) for total in self._engine.totals]
        seconds = time.perf_counter() - begun_s
        values = {"loss": progress.loss, **self._engine.metrics_from(totals)}
        self._engine.average_state()
        values.update({f"val_{name}": value for name, value in self._validate().items()})
        self._callbacks.on_epoch_end(epoch - 1, values)
        result = EpochResult(epoch, values, progress.rows, seconds)
        self._reporter.epoch_ends(result)
        return result

    def _train_on(self, superbatch: Superbatch, progress: _Progress, epoch: int) -> None:
        global_rows = self._training.global_rows(superbatch.first_step, superbatch.num_steps)
        full = self._training.is_full(self._shards, superbatch)
        supersteps = self._engine.train(superbatch.data, global_rows, full=full)
        done = 0
        self._callbacks.on_train_batch_begin(progress.steps)
        for call in supersteps:
            losses = call.losses
            _check_finite(losses, epoch, progress.steps)
            progress.add(losses, global_rows[done : done + len(losses)])
            done += len(losses)
            self._reporter.steps_done(progress.steps, progress.rows, progress.loss)
        self._callbacks.on_train_batch_end(progress.steps - 1, {"loss": progress.loss})

    def _validate(self) -> dict[str, float]:
        if self._validation is None:
            return {}
        self._callbacks.on_test_begin()
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
        values = {"loss": float(summed[0]) / self._validation.source.num_rows, **self._engine.metrics_from(totals)}
        self._callbacks.on_test_end(values)
        return values


def _check_finite(losses: npt.NDArray[np.float32], epoch: int, first_step: int) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        step = first_step + int(bad[0]) + 1
        raise NonFiniteError(
            f"epoch {epoch}, step {step}: the loss became {losses[bad[0]]}; lower --learning-rate, "
            "or look for extreme values in the data"
        )
