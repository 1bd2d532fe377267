"""What happens inside a compiled call: the steps of training and of evaluation, as TensorFlow traces them."""

from __future__ import annotations

import keras
import tensorflow as tf

from disttrain.optimizer import AllReduceOptimizer
from disttrain.world import Backend

States = list[tf.Tensor]


class Steps:
    """The graph code of one model's steps; nothing here runs in Python after it was traced."""

    def __init__(self, model: keras.Model, backend: Backend, num_features: int, *, reduces: bool) -> None:
        """`reduces`: gradients are summed over the workers in every step, each worker's weighted by its share."""
        self.model = model
        self._num_features = num_features
        self._is_leader = backend.world.is_leader
        self._reduces = reduces
        self._sums_over_rows = sums_over_rows(model)
        self._optimizer = AllReduceOptimizer(model.optimizer, backend.reduce if reduces else None)

    def _split(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return rows[:, : self._num_features], rows[:, self._num_features :]  # [rows, features], [rows, targets]

    def _states(self) -> States:
        return [tf.identity(v.value) for v in self.model.metrics_variables]

    def train_steps(
        self, data: tf.Tensor, start: tf.Tensor, stop: tf.Tensor, shares: tf.Tensor
    ) -> tuple[tf.Tensor, States]:
        """Steps [start, stop) of a superbatch; the metrics' states are those since its step 0."""
        for variable in self.model.metrics_variables:
            variable.assign(tf.where(start > 0, variable.value, tf.zeros_like(variable.value)))
        losses = tf.TensorArray(tf.float32, size=tf.shape(data)[0], element_shape=())
        step = start
        while step < stop:  # not tf.range, whose length XLA makes a constant: one compilation for every length
            loss, gradients = self._gradients(data[step], shares[step])
            losses = losses.write(step, self._apply(gradients, loss))
            step += 1
        return losses.stack(), self._states()

    def train_short_step(self, data: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, States]:
        """One step in which this worker may have no row at all; it then still takes part in the all-reduce."""
        self.model.reset_metrics()
        has_rows = data.shape[1] > 0
        loss, gradients = self._gradients(data[0], shares[0]) if has_rows else self._no_gradients(shares[0])
        if has_rows or self._reduces:
            loss = self._apply(gradients, loss)
        else:
            self.model.optimizer.iterations.assign_add(1)
        return loss[tf.newaxis], self._states()

    def _gradients(self, rows: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """This worker's part of the loss and of its gradients: its own mean times its share of the rows."""
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
        model.compute_metrics(x, y, predictions)
        return tf.cast(loss, tf.float32), gradients

    def _no_gradients(self, share: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Zeros, made of the share that a worker without rows has: an all-reduce of constants would be folded away."""
        return share, [tf.cast(tf.fill(v.shape, share), v.dtype) for v in self.model.trainable_variables]

    def _apply(self, gradients: list[tf.Tensor], loss: tf.Tensor) -> tf.Tensor:
        return self._optimizer.apply(gradients, self.model.trainable_variables, loss)

    def evaluate_steps(self, data: tf.Tensor, num_steps: tf.Tensor) -> tuple[tf.Tensor, States]:
        """The first `num_steps` batches' losses without a step, and the metrics' states over them."""
        model = self.model
        model.reset_metrics()
        losses = tf.TensorArray(tf.float32, size=tf.shape(data)[0], element_shape=())
        step = tf.constant(0)
        while step < num_steps:
            x, y = self._split(data[step])
            predictions = model(x, training=False)
            loss = model.compute_loss(x, y, predictions, None, training=False)
            model.compute_metrics(x, y, predictions)
            losses = losses.write(step, tf.cast(loss, tf.float32))
            step += 1
        return losses.stack(), self._states()


def sums_over_rows(model: keras.Model) -> bool:
    """Whether the model's loss adds its rows up instead of averaging them."""
    return getattr(model.loss, "reduction", None) == "sum"
