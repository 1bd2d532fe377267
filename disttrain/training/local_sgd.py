"""Averaging weights every few steps instead of gradients in every step.

Local SGD: Stich, "Local SGD Converges Fast and Communicates Little", arXiv:1805.09767. Averaging the optimizer's state
along with the weights follows Yu, Jin and Yang, "On the Linear Speedup Analysis of Communication Efficient Momentum
SGD", arXiv:1905.03817.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from disttrain.training.optimizer import flatten, unflatten
from disttrain.training.steps import NO_FAULT, OTHER_FAULT, Steps, SuperstepResult


class LocalRounds:
    """Rounds of steps that each worker takes alone; each round ends by averaging weights and optimizer state."""

    def __init__(
        self, steps: Steps, reduce: Callable[[tf.Tensor], tf.Tensor], sync_every: int, *, in_xla: bool
    ) -> None:
        """Takes `steps` that do not reduce, and `reduce`, which sums a float32 vector over workers, maybe in XLA."""
        self._steps = steps
        self._reduce = reduce
        self._sync_every = sync_every
        self._in_xla = in_xla
        model = steps.model
        variables = [*model.trainable_variables, *model.optimizer.variables]
        self._variables = [v for v in variables if np.issubdtype(np.dtype(v.dtype), np.floating)]

    def train_with(self, local_steps: Callable[..., SuperstepResult]) -> Callable[..., SuperstepResult]:
        """Returns a function like `Steps.train_steps` that averages after each round of `local_steps`.

        If the all-reduce cannot be in XLA, the rounds are a graph, which calls compiled steps: 0.1 ms a round, where
        returning to Python for each costs 0.5 ms. Given the steps [-sync_every, 0), the function takes no step but
        averages once, which compiles it all.
        """

        def train_rounds(
            data: tf.Tensor, start: tf.Tensor, stop: tf.Tensor, shares: tf.Tensor, votes: tf.Tensor
        ) -> SuperstepResult:
            num_steps = data.shape[0]
            room = num_steps + self._sync_every  # as a round's results are written whole
            losses, faults = tf.zeros([room]), tf.zeros([room])
            summed, states = votes, self._steps.states()
            while start < stop:
                end = tf.minimum(start + self._sync_every, stop)
                first = tf.maximum(start, 0)
                own_losses, own_faults, _, states = local_steps(data, first, end, shares, votes)
                round_losses, round_faults, summed = self._average(
                    own_losses * shares, own_faults, shares, first, votes
                )
                losses = _written(losses, first, round_losses)
                faults = _written(faults, first, round_faults)
                failed = tf.reduce_max(round_faults) > NO_FAULT
                start = end if self._steps.skips_nonfinite else tf.where(failed, stop, end)
            return losses[:num_steps], faults[:num_steps], summed, states

        compiled: Callable[..., SuperstepResult] = tf.function(train_rounds, jit_compile=self._in_xla)
        return compiled

    def _average(
        self, losses: tf.Tensor, faults: tf.Tensor, shares: tf.Tensor, start: tf.Tensor, votes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Sets all workers' variables to the mean over those workers that had rows in this round.

        Returns the round's losses of the global batch and its faults, float32 [sync_every] each, and the summed votes.
        """
        own_faults = self._round(faults, start)
        present = tf.cast(tf.reduce_max(self._round(shares, start)) > 0, tf.float32)
        values = [tf.convert_to_tensor(v.value) for v in self._variables]
        own = [*(v * tf.cast(present, v.dtype) for v in values), present, self._round(losses, start)]
        own += [own_faults, votes]
        *totals, present, losses, faults, votes = unflatten(self._reduce(flatten(own)), own)
        for variable, value, total in zip(self._variables, values, totals, strict=True):
            variable.assign(tf.where(present > 0, total / tf.cast(present, total.dtype), value))
        others = tf.where(faults > NO_FAULT, OTHER_FAULT, NO_FAULT)
        return losses, tf.where(own_faults > NO_FAULT, own_faults, others), votes

    def _round(self, values: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        """Returns the round's part of `values`, one a step: float32 [sync_every], 0 beyond the superbatch's end."""
        padded = tf.pad(values, [[0, self._sync_every]])
        return tf.slice(padded, [start], [self._sync_every])


def _written(vector: tf.Tensor, start: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns the vector with `values` written from `start` on, where there is room for all of them."""
    places = start + tf.range(values.shape[0])
    return tf.tensor_scatter_nd_update(vector, places[:, tf.newaxis], values)
