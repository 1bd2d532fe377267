"""The epochs of a run: supersteps from the stream through the engine, then validation, losses and metrics for all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras.callbacks import CallbackList

from disttrain.activity import activity, note_position
from disttrain.callback_state import capture_callbacks, restore_callbacks
from disttrain.callbacks import has_own
from disttrain.checkpoint import Checkpoint, Position
from disttrain.commits import WorldChanged
from disttrain.engine import Call, Engine, Placed
from disttrain.errors import NonFiniteError, Stopped
from disttrain.findings import Findings
from disttrain.keeper import Keeper, Wishes
from disttrain.located import describe_batch, refuse_row
from disttrain.plan import Pass
from disttrain.sharding import shards_of_rank
from disttrain.standing import EpochResult, Progress, Standing
from disttrain.state import capture_state, restore_state
from disttrain.stream import Superbatch
from disttrain.totals import Value, as_logs, values_of_one_number
from disttrain.world import Backend, together


class Reporter(Protocol):
    """What a run tells while it goes on; only the leader has one that speaks."""

    def says(self, message: str) -> None:
        """A sentence for the user."""

    def epoch_begins(self, epoch: int, rows: int) -> None:
        """Epoch `epoch`, counted from 1, is about to read its first row, or the one after the `rows` that are done."""

    def steps_done(self, step: int, rows: int, loss: float) -> None:
        """So many of the epoch's steps and rows are done, at this mean loss so far."""

    def steps_skipped(self, step: int, count: int) -> None:
        """Of the steps up to `step`, `count` more were left out for numbers that are not finite."""

    def epoch_ends(self, result: EpochResult) -> None:
        """The epoch's training and validation are done."""


class Trainer:
    """Trains and validates, epoch after epoch, on this worker's shards; all workers make and call it together."""

    def __init__(
        self,
        engine: Engine,
        backend: Backend,
        reporter: Reporter,
        callbacks: CallbackList,
        training: Pass,
        validation: Pass | None,
        keeper: Keeper,
        *,
        skips_nonfinite: bool = False,
        findings: Findings | None = None,
    ) -> None:
        self._engine = engine
        self._backend = backend
        self._reporter = reporter
        self._callbacks = callbacks
        self._training = training
        self._validation = validation
        self._keeper = keeper
        self._skips_nonfinite = skips_nonfinite
        self._findings = findings or Findings(engine.model, backend, training, validation, reporter.says)
        self._standing = Standing()
        self._begun_s = 0.0
        world = backend.world
        self._shards = shards_of_rank(training.num_shards, world.size, world.rank)
        here = (
            bool(callbacks.callbacks),
            has_own(callbacks, "on_batch_end", "on_train_batch_end"),
            has_own(callbacks, "on_test_batch_end"),
        )
        anywhere = [any(flags) for flags in zip(*backend.gather(here), strict=True)]
        self._has_callbacks, self._tells_training, self._tells_validation = anywhere

    def compile(self) -> float:
        """Compiles the supersteps before the first epoch's clock starts; returns the seconds taken."""
        begun_s = time.perf_counter()
        with activity("compiling"):
            if shape := self._training.full_shape(self._shards):
                parts = self._parts(self._training, 0)
                self._engine.compile(shape, training=True, num_votes=len(self._keeper.votes()), parts=parts)
            if self._validation is not None and (shape := self._validation.full_shape(self._shards)) and shape[1]:
                self._engine.compile(shape, training=False, parts=self._parts(self._validation, 0))
        return time.perf_counter() - begun_s

    def run(
        self, epochs: int, resumed: Checkpoint | None = None, *, learning_rate: float | None = None
    ) -> list[EpochResult]:
        """All epochs' results, the same on every worker; fewer than `epochs` where a callback stops the training.

        Callbacks see each superbatch as one batch that begins with its first step and ends with its last, as with
        Keras's own `steps_per_execution`. One that sets `model.stop_training`, on whatever worker, ends the epoch there
        as in Keras's `fit`: it is validated, and no other follows.

        Args:
            epochs: how many there are to be in all.
            resumed: a checkpoint to go on from; all workers have its `about`, and rank 0 its arrays too.
            learning_rate: replaces the one that the checkpoint's optimizer had.

        Raises:
            NonFiniteError: when a step's loss or gradient is NaN or infinite, at the same step on every worker.
            Stopped: at a border where a signal was noticed, once all is handed to the keeper.
            WorldChanged: in an elastic run, at a border where workers are to come or go.
        """
        self._engine.model.stop_training = False
        self._callbacks.on_train_begin()
        if resumed is not None:
            self._restore(resumed, learning_rate)
        else:
            self._engine.synchronize()
        standing = self._standing
        while not standing.is_done(epochs):
            self._epoch(is_last=standing.epoch == epochs)
        self._engine.finalize()
        self._callbacks.on_train_end(as_logs(standing.results[-1].values))
        return standing.results

    def _restore(self, checkpoint: Checkpoint, learning_rate: float | None) -> None:
        self._standing = Standing.from_json(checkpoint.about["standing"])
        self._engine.model.stop_training = self._standing.stopped_early
        self._engine.totals.reset()
        restore_state(self._engine, self._backend, checkpoint.arrays or None)
        if self._standing.progress.steps:
            self._begin_again()
            restore_state(self._engine, self._backend, checkpoint.arrays or None)
        others = {name: checkpoint.arrays[name] for name in set(checkpoint.arrays) - set(checkpoint.about["state"])}
        arrays = self._backend.gather(others if self._backend.world.is_leader else None)[0]
        for message in restore_callbacks(self._callbacks, checkpoint.about["callbacks"], arrays or {}):
            self._reporter.says(message)
        if learning_rate is not None:
            self._engine.model.optimizer.learning_rate = learning_rate

    def _begin_again(self) -> None:
        """Lets callbacks note what is of this process alone, such as the time; the rest is put back afterwards."""
        epoch, batch = self._standing.epoch, self._standing.progress.batch
        self._callbacks.on_epoch_begin(epoch - 1)
        if batch is not None:
            self._callbacks.on_train_batch_begin(batch)

    def _epoch(self, *, is_last: bool) -> None:
        standing = self._standing
        epoch, progress = standing.epoch, standing.progress
        self._reporter.epoch_begins(epoch, progress.rows)
        self._findings.epoch_begins(whole=not progress.steps)
        if not progress.steps:
            self._callbacks.on_epoch_begin(epoch - 1)
            self._engine.totals.reset()
        self._begun_s = time.perf_counter() - progress.seconds
        wishes = self._train_epoch(epoch, progress)
        totals = [self._backend.sum(total) for total in self._engine.totals.sums]
        progress.seconds = time.perf_counter() - self._begun_s
        together(self._backend, self._check_any_applied)
        if self._validation is not None:
            self._keeper.keep(self._checkpoint, must=True)
            self._leave(wishes)
        values: dict[str, Value] = {"loss": progress.loss, **self._engine.totals.values_of(totals)}
        self._engine.average_state()
        self._findings.epoch_ends(epoch, progress.loss, whole=progress.steps == self._training.num_steps)
        values.update({f"val_{name}": value for name, value in self._validate().items()})
        with activity("in the callbacks of an epoch's end"):
            self._callbacks.on_epoch_end(epoch - 1, as_logs(values))
        result = EpochResult(epoch, values, progress.rows, progress.seconds, progress.skipped_steps)
        standing.results.append(result)
        standing.progress = Progress()
        self._agree_to_stop()
        self._engine.totals.reset()
        self._reporter.epoch_ends(result)
        self._keeper.keep(
            partial(self._checkpoint, Position(epoch, progress.steps)), must=True, values=values_of_one_number(values)
        )
        if not is_last and not standing.stopped_early:
            self._leave(wishes)

    def _train_epoch(self, epoch: int, progress: Progress) -> Wishes:
        """The steps that are left of an epoch; what is wished at their end."""
        note_position(epoch, progress.steps)
        wishes = Wishes(stop=False, checkpoint=False, change=False)
        if self._standing.stopped_early:  # in an earlier process: what is left of this epoch is its validation
            return wishes
        place = partial(self._place, self._training)
        with self._training.stream(self._shards, epoch, progress.steps, place) as stream:
            for superbatch in self._arriving(stream, progress):
                for call, global_rows in self._train_on(superbatch, progress):
                    self._check(call, superbatch, progress)
                    progress.add(call, global_rows)
                    self._tell(call, progress)
                    wishes = Wishes.of(call.votes)
                    if progress.steps == superbatch.first_step + superbatch.num_steps:  # before it is kept as done
                        self._findings.see(superbatch.data)
                        self._batch_ends(progress)
                    if self._standing.stopped_early:
                        return wishes
                    if progress.steps < self._training.num_steps:
                        self._heed(wishes)
        return wishes

    def _arriving(self, stream: Iterator[Superbatch], progress: Progress) -> Iterator[Superbatch]:
        while True:
            with activity("waiting for the rows of step {}", progress.steps, waits_for_threads=True):
                superbatch = next(stream, None)
            if superbatch is None:
                return
            yield superbatch

    def _train_on(self, superbatch: Superbatch, progress: Progress) -> Iterator[tuple[Call, npt.NDArray[np.int64]]]:
        """Each compiled call on a superbatch, with the rows of its steps' global batches."""
        global_rows = self._training.global_rows(superbatch.first_step, superbatch.num_steps)
        calls = self._engine.train(superbatch.on_devices, global_rows, votes=self._keeper.votes)
        if progress.batch is None:
            progress.batch = progress.steps
            self._callbacks.on_train_batch_begin(progress.steps)
        waits = self._backend.world.size > 1
        done = 0
        with closing(calls):
            while True:
                training = activity("training from step {}", progress.steps, waits_for_peers=waits)
                with training, self._refusals_located(self._training, superbatch):
                    call = next(calls, None)
                if call is None:
                    return
                yield call, global_rows[done : done + len(call.losses)]
                done += len(call.losses)

    def _batch_ends(self, progress: Progress) -> None:
        logs: dict[str, Value] = {"loss": progress.loss}
        if self._tells_training:
            logs.update(self._metrics())
        progress.batch = None
        self._callbacks.on_train_batch_end(progress.steps - 1, as_logs(logs))
        self._agree_to_stop()

    def _agree_to_stop(self) -> None:
        """Where callbacks of any worker asked for the end of the training, it ends on all."""
        if self._has_callbacks:
            model = self._engine.model
            asked = self._backend.sum(np.array([float(model.stop_training)]))
            model.stop_training = self._standing.stopped_early = bool(asked[0])

    def _metrics(self) -> dict[str, Value]:
        """What the metrics come to so far, over all workers; between two superbatches."""
        engine = self._engine
        return engine.totals.values_of([self._backend.sum(total) for total in engine.totals.sums])

    def _place(self, rows: Pass, superbatch: Superbatch) -> Placed:
        """Copies a superbatch to this worker's devices, in the stream's thread, while the one before is trained on."""
        training = rows is self._training
        return self._engine.place(
            superbatch.data,
            full=rows.is_full(self._shards, superbatch),
            parts=self._parts(rows, superbatch.first_step),
            before=rows.steps_before(superbatch) if training else 0,
            training=training,
        )

    def _parts(self, rows: Pass, step: int) -> tuple[int, ...]:
        """A step's rows on each of this worker's replicas; all steps of a superbatch have as many."""
        return rows.rows_of_replicas(self._shards, self._backend.world.num_devices, step)

    def _tell(self, call: Call, progress: Progress) -> None:
        note_position(self._standing.epoch, progress.steps)
        self._keeper.steps_done(len(call.losses))
        if skipped := int(np.count_nonzero(~call.applied)):
            self._reporter.steps_skipped(progress.steps, skipped)
        self._reporter.steps_done(progress.steps, progress.rows, progress.loss)

    def _heed(self, wishes: Wishes) -> None:
        """Between two calls: does what all workers agreed on."""
        if wishes.stop or wishes.checkpoint or wishes.change:
            self._standing.progress.seconds = time.perf_counter() - self._begun_s
            self._keeper.keep(self._checkpoint, must=wishes.stop)
        self._leave(wishes)

    def _leave(self, wishes: Wishes) -> None:
        """Where all is kept: ends the training here if that is wished."""
        if wishes.stop:
            raise self._stopped()
        if wishes.change:
            raise WorldChanged

    def _stopped(self) -> Stopped:
        standing = self._standing
        return Stopped(f"stopped in epoch {standing.epoch}, after step {standing.progress.steps:,}")

    def _checkpoint(self, ended: Position | None = None) -> Checkpoint:
        """Where the run stands now, or where the epoch ended that was just done; all workers call it together."""
        state = capture_state(self._engine, self._backend, wanted=self._keeper.wants_state)
        callbacks, arrays = capture_callbacks(self._callbacks)
        if self._keeper.every_worker_keeps:  # the leader has callbacks that the others have not
            own = (callbacks, arrays) if self._backend.world.is_leader else ([], {})
            callbacks, arrays = self._backend.gather(own)[0]
        standing = self._standing
        position = ended or Position(standing.epoch, standing.progress.steps)
        about = {"standing": asdict(standing), "callbacks": callbacks, "state": sorted(state)}
        return Checkpoint(position, about, {**state, **arrays})

    def _check(self, call: Call, superbatch: Superbatch, progress: Progress) -> None:
        """Ends the run before a step whose numbers are not finite, unless such steps are to be skipped."""
        bad = np.flatnonzero(~call.applied)
        if self._skips_nonfinite and self._engine.looks_up:
            for number in np.flatnonzero(call.own_faults).tolist():
                self._refuse_rows(superbatch, progress.steps + number)
        if not len(bad) or self._skips_nonfinite:
            return
        step, loss = progress.steps + int(bad[0]), call.losses[bad[0]]
        own = bool(call.own_faults[bad[0]])
        owned = any(self._backend.gather(own))

        def blame() -> None:
            if own or not owned:
                self._refuse_rows(superbatch, step)
                rows = superbatch.data[step - superbatch.first_step]
                what = f"the loss became {loss}" if not np.isfinite(loss) else "a gradient is not finite"
                where = describe_batch(self._training, self._shards, self._standing.epoch, step, rows)
                raise NonFiniteError(
                    f"epoch {self._standing.epoch}, step {step + 1}: {what}, before the update{where}; "
                    "lower --learning-rate, look for extreme values in the data, or leave such steps out with "
                    "--on-nonfinite skip"
                )

        together(self._backend, blame)

    def _refuse_rows(self, superbatch: Superbatch, step: int) -> None:
        """Raises DataError for a row of the step that the model refuses, if there is one."""
        rows = superbatch.data[step - superbatch.first_step]
        refuse_row(self._training, self._shards, self._standing.epoch, step, rows, self._engine.model)

    @contextmanager
    def _refusals_located(self, rows: Pass, superbatch: Superbatch) -> Iterator[None]:
        """Makes what a kernel refuses of a superbatch a DataError that names the line."""
        try:
            yield
        except tf.errors.InvalidArgumentError:
            epoch = self._standing.epoch if rows is self._training else 1
            for number, batch in enumerate(superbatch.data):
                step = superbatch.first_step + number
                refuse_row(rows, self._shards, epoch, step, batch, self._engine.model)
            raise

    def _check_any_applied(self) -> None:
        """Raises NonFiniteError, on the leader, after an epoch of which every step was left out."""
        epoch, progress = self._standing.epoch, self._standing.progress
        if self._backend.world.is_leader and 0 < progress.steps == progress.skipped_steps:
            raise NonFiniteError(
                f"epoch {epoch}: each of its {progress.steps:,} steps was left out, as its loss or a gradient is not "
                "finite: nothing was trained; look for extreme values in the data and lower --learning-rate"
            )

    def _validate(self) -> dict[str, Value]:
        if self._validation is None:
            return {}
        self._callbacks.on_test_begin()
        self._engine.totals.reset()
        loss_sum, num_rows = 0.0, 0
        place = partial(self._place, self._validation)
        stream = self._validation.stream(self._shards, place=place)
        with stream as superbatches, activity("validating", waits_for_threads=True):
            for superbatch in superbatches:
                if self._keeper.is_stopping:  # then all stop below: the epoch's steps are kept already
                    break
                note_position(self._standing.epoch, self._standing.progress.steps)
                self._callbacks.on_test_batch_begin(superbatch.first_step)
                global_rows = self._validation.global_rows(superbatch.first_step, superbatch.num_steps)
                num_rows += int(global_rows.sum())
                if superbatch.data.shape[1]:
                    with self._refusals_located(self._validation, superbatch):
                        loss = self._engine.evaluate(superbatch.on_devices, global_rows)
                        if self._engine.looks_up and not np.isfinite(loss):
                            raise tf.errors.InvalidArgumentError(None, None, "an index out of range")
                    loss_sum += loss
                if self._tells_validation:
                    last_step = superbatch.first_step + superbatch.num_steps - 1
                    self._callbacks.on_test_batch_end(last_step, as_logs(self._validated(loss_sum, num_rows)))
        values = self._validated(loss_sum, num_rows)
        self._callbacks.on_test_end(as_logs(values))
        return values

    def _validated(self, loss_sum: float, num_rows: int) -> dict[str, Value]:
        """What so many rows, of all workers, came to; Stopped on all of them where any is to stop."""
        summed = self._backend.sum(np.array([loss_sum, float(self._keeper.is_stopping)]))
        if summed[1]:
            raise self._stopped()
        return {"loss": float(summed[0]) / num_rows, **self._metrics()}
