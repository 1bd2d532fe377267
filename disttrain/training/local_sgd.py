"""Averaging weights every few steps instead of gradients in every step.

Local SGD: Stich, "Local SGD Converges Fast and Communicates Little", arXiv:1805.09767; that the optimizer's state is
averaged with the weights follows Yu, Jin and Yang, "On the Linear Speedup Analysis of Communication Efficient Momentum
SGD", arXiv:1905.03817.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from disttrain.training.optimizer import flatten, unflatten
from disttrain.training.steps import NO_FAULT, OTHER_FAULT, CallResult, Steps


class LocalRounds:
    """Rounds of steps that each worker takes alone, each round ended by averaging weights and optimizer state."""

    def __init__(self, steps: Steps, reduce: Callable[[tf.Tensor], tf.Tensor], sync_every: int) -> None:
        """`steps` do not reduce; `reduce` sums a float32 vector over all workers."""
        self._steps = steps
        self._reduce = reduce
        self._sync_every = sync_every
        model = steps.model
        variables = [*model.trainable_variables, *model.optimizer.variables]
        self._variables = [v for v in variables if np.issubdtype(np.dtype(v.dtype), np.floating)]

    def train_with(self, local_steps: Callable[..., CallResult]) -> Callable[..., CallResult]:
        """What takes `Steps.train_steps`'s arguments, with the compiled `local_steps` between two averages.

        Averaging in the graph that loops over the rounds costs 0.1 ms a round; coming back to Python for each costs
        0.5 ms. Asked for the steps [-sync_every, 0), it takes none, but averages once, and so compiles all there is.
        """

        def train_rounds(
            data: tf.Tensor, start: tf.Tensor, stop: tf.Tensor, shares: tf.Tensor, votes: tf.Tensor
        ) -> CallResult:
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
                losses += _placed(round_losses, first, num_steps)
                faults += _placed(round_faults, first, num_steps)
                failed = tf.reduce_max(round_faults) > NO_FAULT
                start = end if self._steps.skips_nonfinite else tf.where(failed, stop, end)
            return losses, faults, summed, states

        compiled: Callable[..., CallResult] = tf.function(train_rounds)
        return compiled

    def _average(
        self, losses: tf.Tensor, faults: tf.Tensor, shares: tf.Tensor, start: tf.Tensor, votes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Gives all workers the mean of the variables of those that had rows in this round.

        Returns the round's losses of the global batch and faults, float32 [sync_every] each, and the votes.
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
        """The round's part of a value for each step, float32 [sync_every], 0 after the superbatch's end."""
        padded = tf.pad(values, [[0, self._sync_every]])
        return tf.ensure_shape(padded[start : start + self._sync_every], [self._sync_every])


def _placed(values: tf.Tensor, start: tf.Tensor, length: int) -> tf.Tensor:
    """`values` from `start` on in a vector of zeros, float32 [length]."""
    padded = tf.pad(values, [[start, length]])
    return tf.ensure_shape(padded[:length], [length])
