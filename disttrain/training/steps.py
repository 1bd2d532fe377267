"""What runs inside a superstep: the steps of training and of evaluation, as TensorFlow traces them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import keras
import numpy as np
import tensorflow as tf

from disttrain.distributed.backend import Backend
from disttrain.training.bounds import UncheckedError, num_operations, out_of_range
from disttrain.training.inputs import Inputs, averages_by_weight
from disttrain.training.optimizer import AllReduceOptimizer

F = TypeVar("F", bound=Callable[..., Any])
States = list[tf.Tensor]
# Losses and faults of the superbatch's steps, float32 [steps] each; the votes' sums, float32 [votes]; metrics' states.
SuperstepResult = tuple[tf.Tensor, tf.Tensor, tf.Tensor, States]
_Ends = tuple[Callable[[], None], Callable[[], None]]  # how a step ends: with the update, or without

# Why a step's update is skipped: no reason (it is applied); this worker's own loss or gradient is not finite; or only
# another worker's, or the sum over all workers, is not finite.
NO_FAULT, OWN_FAULT, OTHER_FAULT = 0.0, 1.0, 2.0


def _as_it_stands(function: F) -> F:
    """Excludes a function from AutoGraph, as Keras's `fit` does: converting the Keras code it calls takes 0.5 s."""
    return cast(F, tf.autograph.experimental.do_not_convert(function))


class Steps:
    """The graph code of one model's steps; none of it runs in Python once it is traced."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: AllReduceOptimizer,
        backend: Backend,
        inputs: Inputs,
        *,
        unit: float = 1.0,
        skips_nonfinite: bool,
        chooses: bool = True,
        is_fused: bool = False,
        tracing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Prepares the steps; nothing is traced yet.

        Args:
            model: built and compiled.
            optimizer: the model's; where it reduces, each replica's gradients are weighted by its share of the rows.
            backend: its replicas take the steps.
            inputs: what the model takes of a row.
            unit: a loss of ordinary size, by which the loss is divided before its gradients are taken.
            skips_nonfinite: skips the update of a step whose loss or gradient is not finite, and takes the next step;
                if false, the superstep ends there.
            chooses: makes no update for a step that is not accepted; if false, every update is made and the caller
                has to undo it. Choosing costs a small model a sixth of its step.
            is_fused: the steps are compiled by XLA, which does not reject an index that is out of range.
            tracing: makes the context in which a batch's loss is traced, such as one that overrides gradients.
        """
        self.model = model
        self.skips_nonfinite = skips_nonfinite
        self._chooses = chooses
        self._is_fused = is_fused
        self._tracing = tracing
        self.looks_up = False  # whether anything traced so far uses an index or a label that may be out of range
        self._inputs = inputs
        self._unit = unit
        self._averages_by_weight = inputs.is_weighted and averages_by_weight(model.loss)
        self._is_leader = backend.world.is_leader
        self._replicas = backend.replicas
        self._reduces = optimizer.reduces
        self._is_local = not optimizer.reduces and backend.world.num_replicas > 1
        self._sums_over_rows = sums_over_rows(model)
        self._optimizer = optimizer
        self._moved = [v for v in model.non_trainable_variables if np.issubdtype(np.dtype(v.dtype), np.floating)]

    def states(self) -> States:
        """Returns the metrics' states, for each replica its own."""
        states: States = self._replicas.run(lambda: [tf.identity(v.value) for v in self.model.metrics_variables])
        return states

    def train_steps(
        self, data: Any, start: tf.Tensor, stop: tf.Tensor, shares: Any, votes: tf.Tensor
    ) -> SuperstepResult:
        """Takes the steps [start, stop) of a superbatch; the metrics' states count from its step 0.

        Args:
            data: each replica's part, float32 [steps, rows_per_step, columns]; a replica without rows still takes part
                in every step.
            start: the first step, int32 scalar.
            stop: the step after the last one, int32 scalar.
            shares: each replica's part of each step's loss, float32 [steps].
            votes: float32 [votes], the same in each step; summed with the gradients where those are reduced.
        """
        num_steps = tf.shape(self._replicas.results(data)[0])[0]
        self._replicas.run(self._begin_metrics, start)
        losses = tf.TensorArray(tf.float32, size=num_steps, element_shape=())
        faults = tf.TensorArray(tf.float32, size=num_steps, element_shape=())
        summed, step = votes, start
        while step < stop:  # not tf.range: XLA makes its length a constant, and would compile every length anew
            loss, fault, summed = self._step(data, shares, step, votes)
            losses, faults = losses.write(step, loss), faults.write(step, fault)
            step = step + 1 if self.skips_nonfinite else tf.where(fault > NO_FAULT, stop, step + 1)
        return losses.stack(), faults.stack(), summed, self.states()

    def _begin_metrics(self, start: tf.Tensor) -> None:
        for variable in self.model.metrics_variables:
            variable.assign(tf.where(start > 0, variable.value, tf.zeros_like(variable.value)))

    @_as_it_stands
    def _step(self, data: Any, shares: Any, step: tf.Tensor, votes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Takes one step on every replica; returns the loss, the fault, and the summed votes.

        Whether the update is made is decided once for all replicas: in an update they wait for each other, which
        `tf.distribute` does not allow inside a branch that each replica takes by itself.
        """
        replicas = self._replicas
        ends: dict[int, _Ends] = {}

        def begin(data: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, ...]:
            *results, ends[replicas.index()] = self._begin(data[step], shares[step], votes)
            return tuple(results)

        def end(leaves_out: bool) -> tf.Tensor:
            replicas.run(lambda: ends[replicas.index()][leaves_out]())
            return tf.constant(leaves_out)

        losses, accepted, faults, summed = (replicas.results(value) for value in replicas.run(begin, data, shares))
        if self._chooses:
            tf.cond(accepted[0], lambda: end(False), lambda: end(True))
        else:
            end(False)
        return losses[0], tf.where(accepted[0], NO_FAULT, tf.reduce_min(tf.stack(faults))), summed[0]

    def _begin(self, rows: tf.Tensor, share: tf.Tensor, votes: tf.Tensor) -> tuple[Any, ...]:
        """Runs a replica's step up to its update.

        Returns the loss, whether the step is accepted, the fault if it is not, the summed votes, and two functions that
        end the step: with its update, and without.
        """
        model = self.model
        has_rows = rows.shape[0] > 0
        if not has_rows and not self._reduces:
            model.optimizer.iterations.assign_add(1)
            return share, tf.constant(True), tf.constant(OTHER_FAULT), votes, (_nothing, _nothing)
        before = [tf.identity(v.value) for v in self._moved]
        if has_rows:
            own_loss, own_gradients, predictions = self._gradients(rows, share)
        else:
            own_loss, own_gradients, predictions = self._no_gradients(share)
        if self._replicas.index():
            votes = tf.zeros_like(votes)  # each worker votes once
        gradients, loss, summed = self._reduced(own_gradients, own_loss, votes, rows, share)

        def update() -> None:
            self._optimizer.apply(gradients)
            if has_rows:
                self._add_metrics(rows, predictions)

        def leave_out() -> None:
            for variable, value in zip(self._moved, before, strict=True):
                variable.assign(value)  # batch normalization has averaged the faulty rows in
            if self._is_local:  # only this worker skips the update, but all workers count the same steps
                model.optimizer.iterations.assign_add(1)

        own = [(g, None) for g in own_gradients if g is not None]
        fault = tf.where(self._optimizer.accepts(own, own_loss), OTHER_FAULT, OWN_FAULT)
        return loss, self._optimizer.accepts(gradients, loss), fault, summed, (update, leave_out)

    def _reduced(
        self, gradients: list[tf.Tensor], loss: tf.Tensor, votes: tf.Tensor, rows: tf.Tensor, share: tf.Tensor
    ) -> tuple[list[Any], tf.Tensor, tf.Tensor]:
        """Returns the global batch's gradients with their variables, its loss, and the summed votes.

        Where the loss is divided by the rows' weights, each worker's part is a sum, divided here by all weights.
        """
        others = [loss, votes]
        if self._reduces and self._averages_by_weight:
            others.append(self._weight(rows, share))
        pairs, others = self._optimizer.reduce(gradients, self.model.trainable_variables, *others)
        if len(others) == 2:
            return pairs, others[0], others[1]
        weight = others[2]
        pairs = [(tf.math.divide_no_nan(g, tf.cast(weight, g.dtype)), v) for g, v in pairs]
        return pairs, tf.math.divide_no_nan(others[0], weight), others[1]

    def _weight(self, rows: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        """Returns the sum of the rows' weights over the number of the global batch's rows."""
        return tf.reduce_mean(rows[:, -1]) * share if rows.shape[0] else share

    def _add_metrics(self, rows: tf.Tensor, predictions: Any) -> None:
        x, y, weights = self._inputs.split(rows)
        self.model.compute_metrics(x, y, predictions, weights)

    def _gradients(self, rows: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor], Any]:
        """Returns this worker's part of the loss and the gradients (its mean times its share), and the predictions."""
        model = self.model
        with self._tracing():
            predictions, loss = self._checked_loss(rows, training=True)
            if self._reduces:
                if self._sums_over_rows and not self._is_leader and self._replicas.num_in_sync == 1:
                    loss = loss - sum(model.losses)  # regularization counts once: the leader has rows in every step
                part = self._weight(rows, share) if self._averages_by_weight else share
                loss = loss * tf.cast(part, loss.dtype)
            objective = model.optimizer.scale_loss(loss if self._unit == 1 else loss / self._unit)
        unconnected = tf.UnconnectedGradients.ZERO if self._reduces else tf.UnconnectedGradients.NONE
        gradients = tf.gradients(
            objective, [v.value for v in model.trainable_variables], unconnected_gradients=unconnected
        )
        return tf.cast(loss, tf.float32), gradients, predictions

    def _no_gradients(self, share: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor], None]:
        """Returns zeros made from the share of a worker without rows: an all-reduce of constants is optimized away."""
        return share, [tf.cast(tf.fill(v.shape, share), v.dtype) for v in self.model.trainable_variables], None

    def evaluate_steps(self, data: Any, num_steps: tf.Tensor) -> tuple[Any, Any, States]:
        """Evaluates the first `num_steps` batches, without training.

        Returns each replica's losses and summed weights of these batches, and the metrics' states.
        """

        def evaluate(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            self.model.reset_metrics()
            losses = tf.TensorArray(tf.float32, size=tf.shape(data)[0], element_shape=())
            step = tf.constant(0)
            while step < num_steps:
                losses = losses.write(step, self._evaluate_step(data[step]))
                step += 1
            weights = tf.reduce_sum(data[:, :, -1], axis=1) if self._averages_by_weight else tf.zeros([0])
            return losses.stack(), weights

        losses, weights = self._replicas.run(evaluate, data)
        return losses, weights, self.states()

    @_as_it_stands
    def _evaluate_step(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns one batch's loss, and updates the metrics."""
        if rows.shape[0] == 0:
            return tf.constant(0.0)
        predictions, loss = self._checked_loss(rows, training=False)
        self._add_metrics(rows, predictions)
        return tf.cast(loss, tf.float32)

    def _checked_loss(self, rows: tf.Tensor, *, training: bool) -> tuple[Any, tf.Tensor]:
        """Returns the predictions and their loss, which is NaN if any index or label is out of range."""
        num_before = num_operations()
        x, y, weights = self._inputs.split(rows)
        predictions = self.model(x, training=training)
        loss = self._loss(x, y, predictions, weights, training=training)
        try:
            is_outside = out_of_range(num_before)
        except UncheckedError:
            if self._is_fused:
                raise
            is_outside = None  # TensorFlow's kernels check it themselves
        if is_outside is None:
            return predictions, loss
        self.looks_up = True
        return predictions, tf.where(is_outside, tf.constant(float("nan"), loss.dtype), loss)

    def _loss(self, x: Any, y: tf.Tensor, predictions: Any, weights: Any, *, training: bool) -> tf.Tensor:
        """Returns the batch's own loss: undoes that Keras divides a mean by the number of a strategy's replicas."""
        loss = self.model.compute_loss(x, y, predictions, weights, training=training)
        return loss if self._sums_over_rows else loss * self._replicas.num_in_sync


def _nothing() -> None:
    pass


def sums_over_rows(model: keras.Model) -> bool:
    """Returns whether the model's loss sums over rows instead of averaging over them."""
    return getattr(model.loss, "reduction", None) == "sum"
