"""Steps of a small network with an all-reduce in each: XLA compiles each step as two functions around it.

With the flags of small_network.py, XLA makes one function of a loop. It cannot do so with a loop that calls code from
elsewhere, as the compiled all-reduce is; there it would run a step's fifty operations one after the other. So what
comes before the all-reduce and what comes after it are loops of their own here, of one turn each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from disttrain.training.optimizer import flatten, unflatten
from disttrain.training.steps import NO_FAULT, OTHER_FAULT, OWN_FAULT, Steps


class SmallSteps(Steps):
    """Steps whose optimizer reduces in XLA, uncompressed, and whose updates are all made, on a worker with rows."""

    def _step(self, data: tf.Tensor, shares: tf.Tensor, step: tf.Tensor, votes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Takes one step; returns the loss, the fault, and the summed votes."""
        model, optimizer = self.model, self._optimizer
        weights = [tf.convert_to_tensor(variable) for variable in model.trainable_variables]
        rows, share = data[step], shares[step]
        packed = [*weights, share, votes]  # shapes of what is reduced: gradients, the loss, the votes

        def begin(rows: tf.Tensor, share: tf.Tensor) -> list[tf.Tensor]:
            loss, gradients, predictions = self._gradients(rows, share)
            is_finite = optimizer.accepts([(gradient, None) for gradient in gradients], loss)
            return [flatten([*gradients, loss, votes]), predictions, tf.where(is_finite, OTHER_FAULT, OWN_FAULT)]

        def end(summed: tf.Tensor, rows: tf.Tensor, predictions: tf.Tensor) -> list[tf.Tensor]:
            *gradients, loss, _ = unflatten(summed, packed)
            pairs = list(zip(gradients, model.trainable_variables, strict=True))
            optimizer.apply(pairs)
            self._add_metrics(rows, predictions)
            return [optimizer.accepts(pairs, loss)]

        length = sum(tensor.shape.num_elements() for tensor in packed)
        results = [tf.zeros([length]), tf.zeros([rows.shape[0], model.output_shape[-1]]), tf.constant(NO_FAULT)]
        flat, predictions, fault = _as_one_function(begin, [rows, share], results, step)
        summed = optimizer.sum(flat)
        (is_accepted,) = _as_one_function(end, [summed, rows, predictions], [tf.constant(True)], step)
        *_, loss, votes = unflatten(summed, packed)
        return loss, tf.where(is_accepted, NO_FAULT, fault), votes


def _as_one_function(
    compute: Callable[..., list[tf.Tensor]], inputs: Sequence[tf.Tensor], results: list[tf.Tensor], step: tf.Tensor
) -> Any:
    """Returns `compute(*inputs)`, made in a loop that runs once, for the turn of number `step`.

    XLA moves all that does not change from turn to turn out of a loop. So inside, the inputs are zeros in all other
    turns, of which XLA does not know that there are none.

    Args:
        compute: returns tensors of the shapes of `results`.
        inputs: what `compute` takes.
        results: placeholders.
        step: int32 scalar, known only while the program runs.
    """

    def turn(number: tf.Tensor, *_: tf.Tensor) -> list[tf.Tensor]:
        is_turn = number == step
        own = [tf.where(is_turn, tensor, tf.zeros_like(tensor)) for tensor in inputs]
        return [number + 1, *compute(*own)]

    return tf.while_loop(lambda number, *_: number <= step, turn, [step, *results])[1:]
