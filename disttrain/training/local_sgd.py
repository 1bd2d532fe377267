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

    def __init__(self, steps: Steps, reduce: Callable[[tf.Tensor], tf.Tensor], sync_every: int) -> None:
        """Takes `steps` that do not reduce, and `reduce`, which sums a float32 vector over all workers."""
        self._steps = steps
        self._reduce = reduce
        self._sync_every = sync_every
        model = steps.model
        variables = [*model.trainable_variables, *model.optimizer.variables]
        self._variables = [v for v in variables if np.issubdtype(np.dtype(v.dtype), np.floating)]

    def train_with(self, local_steps: Callable[..., SuperstepResult]) -> Callable[..., SuperstepResult]:
        """Returns a function like `Steps.train_steps` that averages after each round of the compiled `local_steps`.

        Averaging in the graph that loops over the rounds costs 0.1 ms a round; returning to Python for each costs
        0.5 ms. Given the steps [-sync_every, 0), the function takes no step but averages once, which compiles it all.
        """

        def train_rounds(
            data: tf.Tensor, start: tf.Tensor, stop: tf.Tensor, shares: tf.Tensor, votes: tf.Tensor
        ) -> SuperstepResult:
            num_steps = data.shape[0]
            losses, faults = tf.zeros([num_steps]), tf.zeros([num_steps])
            summed, states = votes, self._steps.states()
            while start < stop:
                end = tf.minimum(start + self._sync_every, stop)
                first = tf.maximum(start, 0)
                own_losses, own_faults, _, states = local_steps(data, first, end, shares, votes)
                round_losses, round_faults, summed = self._average(
                    own_losses * shares, own_faults, shares, first, votes
                )
                losses += _embedded(round_losses, first, num_steps)
                faults += _embedded(round_faults, first, num_steps)
                failed = tf.reduce_max(round_faults) > NO_FAULT
                start = end if self._steps.skips_nonfinite else tf.where(failed, stop, end)
            return losses, faults, summed, states

        compiled: Callable[..., SuperstepResult] = tf.function(train_rounds)
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
        return tf.ensure_shape(padded[start : start + self._sync_every], [self._sync_every])


def _embedded(values: tf.Tensor, start: tf.Tensor, length: int) -> tf.Tensor:
    """Returns a vector of zeros, float32 [length], in which `values` start at `start`."""
    padded = tf.pad(values, [[start, length]])
    return tf.ensure_shape(padded[:length], [length])
