"""What happens inside a compiled call: the steps of training and of evaluation, as TensorFlow traces them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import keras
import numpy as np
import tensorflow as tf

from disttrain.optimizer import AllReduceOptimizer
from disttrain.world import Backend

F = TypeVar("F", bound=Callable[..., Any])
States = list[tf.Tensor]
# Losses and faults of the superbatch's steps, float32 [steps] each; the votes' sums, float32 [votes]; metrics' states.
CallResult = tuple[tf.Tensor, tf.Tensor, tf.Tensor, States]

# A step's fault: none, or an update left out because this worker's own loss or gradient is not finite, or because
# that of another worker, or only the sum over all, is not.
NO_FAULT, OWN_FAULT, OTHER_FAULT = 0.0, 1.0, 2.0


def _as_it_stands(function: F) -> F:
    """Traced without AutoGraph, as in Keras's own `fit`: it would rewrite all of Keras that is called, in 0.5 s."""
    return cast(F, tf.autograph.experimental.do_not_convert(function))


class Steps:
    """The graph code of one model's steps; nothing here runs in Python after it was traced."""

    def __init__(
        self, model: keras.Model, backend: Backend, num_features: int, *, reduces: bool, skips_nonfinite: bool
    ) -> None:
        """Reads the model's loss and optimizer.

        Args:
            model: built and compiled.
            backend: sums over the workers.
            num_features: columns of a row that are no targets.
            reduces: gradients are summed over the workers in every step, each worker's weighted by its share.
            skips_nonfinite: a step whose loss or gradient is not finite is left out, and the next one taken; else the
                call ends there.
        """
        self.model = model
        self.skips_nonfinite = skips_nonfinite
        self._num_features = num_features
        self._is_leader = backend.world.is_leader
        self._reduces = reduces
        self._sums_over_rows = sums_over_rows(model)
        self._optimizer = AllReduceOptimizer(model.optimizer, backend.reduce if reduces else None)
        self._moved = [v for v in model.non_trainable_variables if np.issubdtype(np.dtype(v.dtype), np.floating)]

    def states(self) -> States:
        """The metrics' states."""
        return [tf.identity(v.value) for v in self.model.metrics_variables]

    def train_steps(
        self, data: tf.Tensor, start: tf.Tensor, stop: tf.Tensor, shares: tf.Tensor, votes: tf.Tensor
    ) -> CallResult:
        """Steps [start, stop) of a superbatch; the metrics' states are those since its step 0.

        Args:
            data: float32 [steps, rows_per_step, columns]; with no rows, this worker still takes part in every step.
            start: the first step, int32 scalar.
            stop: the step after the last one, int32 scalar.
            shares: float32 [steps], this worker's part of each step's loss.
            votes: float32 [votes], the same in each step; where gradients are reduced, summed with them.
        """
        for variable in self.model.metrics_variables:
            variable.assign(tf.where(start > 0, variable.value, tf.zeros_like(variable.value)))
        losses = tf.TensorArray(tf.float32, size=tf.shape(data)[0], element_shape=())
        faults = tf.TensorArray(tf.float32, size=tf.shape(data)[0], element_shape=())
        summed, step = votes, start
        while step < stop:  # not tf.range, whose length XLA makes a constant: one compilation for every length
            loss, fault, summed = self._step(data[step], shares[step], votes)
            losses, faults = losses.write(step, loss), faults.write(step, fault)
            step = step + 1 if self.skips_nonfinite else tf.where(fault > NO_FAULT, stop, step + 1)
        return losses.stack(), faults.stack(), summed, self.states()

    def _split(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return rows[:, : self._num_features], rows[:, self._num_features :]  # [rows, features], [rows, targets]

    @_as_it_stands
    def _step(self, rows: tf.Tensor, share: tf.Tensor, votes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One step: the loss, the fault, and the votes."""
        model = self.model
        has_rows = rows.shape[0] > 0
        if not has_rows and not self._reduces:
            model.optimizer.iterations.assign_add(1)
            return share, tf.constant(NO_FAULT), votes
        before = [tf.identity(v.value) for v in self._moved]
        if has_rows:
            own_loss, own_gradients, predictions = self._gradients(rows, share)
        else:
            own_loss, own_gradients, predictions = self._no_gradients(share)
        gradients, (loss, summed) = self._optimizer.reduce(own_gradients, model.trainable_variables, own_loss, votes)

        def update() -> tf.Tensor:
            self._optimizer.apply(gradients)
            if has_rows:
                model.compute_metrics(*self._split(rows), predictions)
            return tf.constant(NO_FAULT)

        def leave_out() -> tf.Tensor:
            for variable, value in zip(self._moved, before, strict=True):
                variable.assign(value)  # batch normalization has averaged the faulty rows in
            own = [(g, None) for g in own_gradients if g is not None]
            return tf.where(self._optimizer.accepts(own, own_loss), OTHER_FAULT, OWN_FAULT)

        return loss, tf.cond(self._optimizer.accepts(gradients, loss), update, leave_out), summed

    def _gradients(self, rows: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor], Any]:
        """This worker's part of the loss and of its gradients, its own mean times its share; and the predictions."""
        model = self.model
        x, y = self._split(rows)
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            loss = model.compute_loss(x, y, predictions, None, training=True)
            if self._reduces:
                if self._sums_over_rows and not self._is_leader:
                    loss = loss - sum(model.losses)  # regularization counts once; rank 0 has rows in every step
                loss = loss * tf.cast(share, loss.dtype)
            objective = model.optimizer.scale_loss(loss)
        unconnected = tf.UnconnectedGradients.ZERO if self._reduces else tf.UnconnectedGradients.NONE
        gradients = tape.gradient(
            objective, [v.value for v in model.trainable_variables], unconnected_gradients=unconnected
        )
        return tf.cast(loss, tf.float32), gradients, predictions

    def _no_gradients(self, share: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor], None]:
        """Zeros, made of the share that a worker without rows has: an all-reduce of constants would be folded away."""
        return share, [tf.cast(tf.fill(v.shape, share), v.dtype) for v in self.model.trainable_variables], None

    def evaluate_steps(self, data: tf.Tensor, num_steps: tf.Tensor) -> tuple[tf.Tensor, States]:
        """The first `num_steps` batches' losses without a step, and the metrics' states over them."""
        self.model.reset_metrics()
        losses = tf.TensorArray(tf.float32, size=tf.shape(data)[0], element_shape=())
        step = tf.constant(0)
        while step < num_steps:
            losses = losses.write(step, self._evaluate_step(data[step]))
            step += 1
        return losses.stack(), self.states()

    @_as_it_stands
    def _evaluate_step(self, rows: tf.Tensor) -> tf.Tensor:
        """One batch's loss; the metrics take it in."""
        model = self.model
        x, y = self._split(rows)
        predictions = model(x, training=False)
        loss = model.compute_loss(x, y, predictions, None, training=False)
        model.compute_metrics(x, y, predictions)
        return tf.cast(loss, tf.float32)


def sums_over_rows(model: keras.Model) -> bool:
    """Whether the model's loss adds its rows up instead of averaging them."""
    return getattr(model.loss, "reduction", None) == "sum"
