"""The epochs of a run: superbatches from the stream through the engine, then validation, losses and metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt
from keras.callbacks import CallbackList

from disttrain.activity import activity, note_position
from disttrain.checkpoints.file import Checkpoint, Position
from disttrain.data.superbatches import Feed, Superbatch
from disttrain.distributed.backend import Backend, together
from disttrain.training.callbacks import Listening
from disttrain.training.checkpointing import Checkpointing, Decision, leave_if_decided
from disttrain.training.engine import Engine, Superstep
from disttrain.training.evaluator import Evaluator
from disttrain.training.faulty_steps import FaultySteps
from disttrain.training.findings import Findings
from disttrain.training.metric_sums import Value, as_logs, values_of_one_number
from disttrain.training.progress import EpochProgress, EpochResult, RunProgress
from disttrain.training.reports import EpochBegun, EpochEnded, Event, Reporter, StepsDone, StepsSkipped
from disttrain.training.snapshots import Snapshots


class Trainer:
    """Trains and validates, epoch after epoch, on this worker's shards; all workers make and call it together."""

    def __init__(
        self,
        engine: Engine,
        backend: Backend,
        feed: Feed,
        callbacks: CallbackList,
        checkpointing: Checkpointing,
        snapshots: Snapshots,
        *,
        evaluator: Evaluator | None = None,
        findings: Findings | None = None,
        reporters: Sequence[Reporter] = (),
        skips_nonfinite: bool = False,
    ) -> None:
        """
        Args:
            engine: of the model.
            backend: whose workers train.
            feed: the rows to train on.
            callbacks: the user's own.
            checkpointing: where what is trained is kept.
            snapshots: of the model, its optimizer, metrics and callbacks.
            evaluator: validates after each epoch.
            findings: looks for what makes the result worthless.
            reporters: hear of the training's events.
            skips_nonfinite: a step whose loss or gradient is not finite is left out; else the run ends before it.
        """
        self._engine = engine
        self._backend = backend
        self._feed = feed
        self._callbacks = callbacks
        self._checkpointing = checkpointing
        self._snapshots = snapshots
        self._evaluator = evaluator
        self._findings = findings
        self._reporters = reporters
        self._faulty = FaultySteps(engine, backend, feed, skips=skips_nonfinite)
        self._progress = RunProgress()
        # What earlier processes have trained of the current epoch, and when this one began with it.
        self._rows_before, self._seconds_before, self._begun_s = 0, 0.0, 0.0
        self._reported_from_s = 0.0  # begins before the callbacks of the epoch's begin
        self._told = Listening(anything=False, batch_ends=False)

    def compile(self) -> float:
        """Compiles the supersteps before the first epoch's clock starts; returns the seconds taken."""
        begun_s = time.perf_counter()
        with activity("compiling"):
            if shape := self._feed.full_shape:
                votes, parts = self._checkpointing.votes(), self._feed.plan.rows_of_replicas(0)
                self._engine.compile(shape, training=True, num_votes=len(votes), rows_of_replicas=parts)
            if self._evaluator is not None:
                self._evaluator.compile()
        return time.perf_counter() - begun_s

    def run(
        self, epochs: int, resumed: Checkpoint | None = None, *, learning_rate: float | None = None
    ) -> list[EpochResult]:
        """Trains all epochs and returns their results, the same on every worker.

        Callbacks see each superbatch as one batch that begins with its first step and ends with its last, as with
        Keras's own `steps_per_execution`. One that sets `model.stop_training`, on whatever worker, ends the epoch there
        as in Keras's `fit`: it is validated, and no other follows.

        Args:
            epochs: how many there are to be in all.
            resumed: a checkpoint to go on from; all workers have its `about`, and rank 0 its arrays too.
            learning_rate: replaces the one that the checkpoint's optimizer had.

        Raises:
            NonFiniteError: when a step's loss or gradient is NaN or infinite, at the same step on every worker.
            Stopped: at a border where a signal was noticed, once a checkpoint was handed on.
            WorldChanged: in an elastic run, at a border where workers are to come or go.
        """
        self._told = Listening.of(self._callbacks, self._backend)
        self._engine.model.stop_training = False
        self._callbacks.on_train_begin()
        if resumed is not None:
            self._progress = self._snapshots.restore(resumed)
            if learning_rate is not None:
                self._engine.model.optimizer.learning_rate = learning_rate
        else:
            self._engine.synchronize()
        progress = self._progress
        while not progress.is_done(epochs):
            self._epoch(is_last=progress.epoch == epochs)
        self._engine.finalize()
        self._callbacks.on_train_end(as_logs(progress.results[-1].values))
        return progress.results

    def _epoch(self, *, is_last: bool) -> None:
        epoch, current = self._progress.epoch, self._progress.current
        self._reported_from_s = time.perf_counter()
        self._report(EpochBegun(epoch, current.rows))
        if self._findings is not None:
            self._findings.epoch_begins(whole=not current.steps)
        if not current.steps:
            self._callbacks.on_epoch_begin(epoch - 1)
            self._engine.totals.reset()
        self._rows_before, self._seconds_before, self._begun_s = current.rows, current.seconds, time.perf_counter()
        decision = self._train_epoch(epoch, current)
        sums = self._engine.summed_totals()
        current.seconds = self._seconds()
        together(self._backend, lambda: self._faulty.check_any_applied(epoch, current))
        if self._evaluator is not None:
            self._keep(must=True)
            leave_if_decided(decision, self._progress)
        values: dict[str, Value] = {"loss": current.loss, **self._engine.totals.values_of(sums)}
        self._engine.average_state()
        if self._findings is not None:
            self._findings.epoch_ends(epoch, current.loss, whole=current.steps == self._feed.sharding.num_steps)
        values.update({f"val_{name}": value for name, value in self._validate().items()})
        self._end_epoch(values)
        if not is_last and not self._progress.stopped_early:
            leave_if_decided(decision, self._progress)

    def _end_epoch(self, values: dict[str, Value]) -> None:
        """Tells what an epoch came to, and keeps it."""
        epoch, current = self._progress.epoch, self._progress.current
        with activity("in the callbacks of an epoch's end"):
            self._callbacks.on_epoch_end(epoch - 1, as_logs(values))
        result = EpochResult(epoch, values, current.rows, current.seconds, current.skipped_steps)
        self._progress.results.append(result)
        self._progress.current = EpochProgress()
        self._agree_to_stop()
        self._engine.totals.reset()
        self._report(EpochEnded(result))
        self._keep(must=True, ended=Position(epoch, current.steps), values=values_of_one_number(values))

    def _train_epoch(self, epoch: int, current: EpochProgress) -> Decision:
        """Takes the steps that are left of an epoch; returns what the workers decided at their end."""
        note_position(epoch, current.steps)
        decision = Decision()
        if self._progress.stopped_early:  # in an earlier process: what is left of this epoch is its validation
            return decision
        num_steps = self._feed.sharding.num_steps
        with self._feed.stream(epoch, current.steps, self._engine.copy_to_devices) as stream:
            for superbatch in self._arriving(stream, current):
                for superstep, global_rows in self._train_on(superbatch, current):
                    self._faulty.check(superstep, superbatch, epoch, current.steps)
                    current.add(superstep, global_rows)
                    self._tell(superstep, current)
                    decision = Decision.of(superstep.votes)
                    if current.steps == superbatch.stop_step:  # before it is kept as done
                        if self._findings is not None:
                            self._findings.see(superbatch.data)
                        self._batch_ends(current)
                    if self._progress.stopped_early:
                        return decision
                    if current.steps < num_steps:
                        self._act_on_votes(decision)
        return decision

    def _arriving(self, stream: Iterator[Superbatch], current: EpochProgress) -> Iterator[Superbatch]:
        while True:
            with activity("waiting for the rows of step {}", current.steps, waits_for_threads=True):
                superbatch = next(stream, None)
            if superbatch is None:
                return
            yield superbatch

    def _train_on(
        self, superbatch: Superbatch, current: EpochProgress
    ) -> Iterator[tuple[Superstep, npt.NDArray[np.int64]]]:
        """Yields each superstep on a superbatch, with the rows of its steps' global batches."""
        supersteps = self._engine.train(superbatch.on_devices, votes=self._checkpointing.votes)
        if current.batch is None:
            current.batch = current.steps
            self._callbacks.on_train_batch_begin(current.steps)
        waits = self._backend.world.size > 1
        done = 0
        with closing(supersteps):
            while True:
                training = activity("training from step {}", current.steps, waits_for_peers=waits)
                with training, self._faulty.located(superbatch, self._progress.epoch):
                    superstep = next(supersteps, None)
                if superstep is None:
                    return
                yield superstep, superbatch.global_rows[done : done + len(superstep.losses)]
                done += len(superstep.losses)

    def _batch_ends(self, current: EpochProgress) -> None:
        logs: dict[str, Value] = {"loss": current.loss}
        if self._told.batch_ends:
            logs.update(self._engine.metric_values())
        current.batch = None
        self._callbacks.on_train_batch_end(current.steps - 1, as_logs(logs))
        self._agree_to_stop()

    def _agree_to_stop(self) -> None:
        """Ends the training on all workers if callbacks of any of them asked for it."""
        if self._told.anything:
            model = self._engine.model
            asked = self._backend.sum(np.array([float(model.stop_training)]))
            model.stop_training = self._progress.stopped_early = bool(asked[0])

    def _tell(self, superstep: Superstep, current: EpochProgress) -> None:
        epoch = self._progress.epoch
        note_position(epoch, current.steps)
        self._checkpointing.steps_done(len(superstep.losses))
        if skipped := int(np.count_nonzero(~superstep.applied)):
            self._report(StepsSkipped(epoch, current.steps, skipped))
        rate = (current.rows - self._rows_before) / max(time.perf_counter() - self._reported_from_s, 1e-9)
        self._report(StepsDone(epoch, current.steps, current.rows, current.loss, rate))

    def _report(self, event: Event) -> None:
        for reporter in self._reporters:
            reporter.report(event)

    def _seconds(self) -> float:
        """Returns how long the current epoch has been trained, by this process and earlier ones."""
        return self._seconds_before + time.perf_counter() - self._begun_s

    def _act_on_votes(self, decision: Decision) -> None:
        """Does between two supersteps what the workers decided."""
        if decision.needs_checkpoint:
            self._progress.current.seconds = self._seconds()
            self._keep(must=decision.stop)
        leave_if_decided(decision, self._progress)

    def _keep(self, *, must: bool, ended: Position | None = None, values: dict[str, float] | None = None) -> None:
        """Keeps what is trained so far, or the end of the epoch that was just done; all workers call it together."""
        begun_s = time.monotonic()
        position = ended or Position(self._progress.epoch, self._progress.current.steps)
        checkpoint = self._snapshots.take(position, self._progress)
        self._checkpointing.keep(checkpoint, time.monotonic() - begun_s, must=must, values=values)

    def _validate(self) -> dict[str, Value]:
        if self._evaluator is None:
            return {}
        values = self._evaluator.evaluate(lambda: self._checkpointing.is_stopping)  # the epoch's steps are kept already
        if values is None:
            leave_if_decided(Decision(stop=True), self._progress)
        return values or {}
