"""The superstep: many optimizer updates, or evaluations, in one compiled call."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from disttrain.errors import UsageError
from disttrain.local_sgd import WeightAverager
from disttrain.steps import Steps, sums_over_rows
from disttrain.world import Backend

Floats = npt.NDArray[np.float32]
Totals = list[npt.NDArray[np.float64]]

# A call that takes longer is cut into shorter ones, so that progress, callbacks and Ctrl-C are not kept waiting.
CALL_TARGET_S = 0.5


class Engine:
    """Runs supersteps of a compiled Keras model on this worker's part of each global batch.

    With a backend that fuses steps, or with `sync_every` above 1, a superstep is one XLA program with the loop over
    its steps inside; otherwise the loop is a graph with one all-reduce in every step. The short step at the end of an
    epoch always runs as a graph: it comes once an epoch, and compiling its shape would take longer than running it.
    """

    def __init__(self, model: keras.Model, backend: Backend, num_features: int, sync_every: int = 1) -> None:
        """Builds the model's variables, optimizer and metrics on this worker alone; `synchronize` follows.

        Args:
            model: takes float32 [rows, num_features].
            backend: averages over the workers.
            num_features: columns of a row that are no targets.
            sync_every: steps that each worker takes alone before weights are averaged (see local_sgd.py); 1 averages
                the gradients of every step.
        """
        self.model = model
        self._backend = backend
        self._num_features = num_features
        self._alone = backend.world.size == 1
        self._sums_over_rows = sums_over_rows(model)
        self._sync_every = sync_every if not self._alone else 1
        reduces = not self._alone and sync_every == 1
        self._capacity = {"train": 0, "evaluate": 0}
        self._steps_per_call: int | None = None
        _build(model, num_features)
        self._averager = WeightAverager(backend, [*model.trainable_variables, *model.optimizer.variables])
        steps = Steps(model, backend, num_features, reduces=reduces)
        self._train = _Compiled(steps.train_steps, backend.fuses_steps or not reduces)
        self._train_short = tf.function(steps.train_short_step)
        self._evaluate = _Compiled(steps.evaluate_steps, True)
        self._evaluate_short = tf.function(steps.evaluate_steps)
        self.reset_totals()

    def synchronize(self) -> None:
        """Gives all workers rank 0's weights and optimizer state."""
        self._backend.broadcast([*self.model.variables, *self.model.optimizer.variables])

    def reset_totals(self) -> None:
        """Forgets what the metrics have seen."""
        self.model.reset_metrics()
        self._totals: Totals = [np.zeros(v.shape, np.float64) for v in self.model.metrics_variables]

    @property
    def totals(self) -> Totals:
        """Sums over this worker's steps of each metric variable, float64: they add up over workers."""
        return self._totals

    def metrics_from(self, totals: Totals) -> dict[str, float]:
        """The metrics' values for totals that were summed over all workers."""
        for variable, total in zip(self.model.metrics_variables, totals, strict=True):
            variable.assign(total)
        values = {name: float(value) for name, value in self.model.get_metrics_result().items() if name != "loss"}
        self.model.reset_metrics()
        return values

    def compile(self, shape: tuple[int, int, int], *, training: bool) -> None:
        """Compiles the superstep of full batches, float32 [steps, rows_per_step, columns], without taking a step."""
        data, none = tf.zeros(shape), tf.constant(0)
        if training:
            self._capacity["train"] = shape[0]
            self._train(data, none, none, tf.zeros(shape[:1]))
            if self._sync_every > 1:
                self._averager.average.get_concrete_function(tf.TensorSpec(shape[:1], tf.float32))
        else:
            self._capacity["evaluate"] = shape[0]
            self._evaluate(data, none)

    def train(
        self, data: Floats, global_rows: npt.NDArray[np.int64], *, full: bool, steps_per_call: int | None = None
    ) -> Iterator[Floats]:
        """Takes one optimizer step for each of `data`'s batches.

        Args:
            data: float32 [steps, rows_per_step, columns], features before targets.
            global_rows: int64 [steps], the rows that all workers together give to each step.
            full: whether every held shard gives a whole batch, so that the shape is the compiled one.
            steps_per_call: steps of one compiled call; None for as many as CALL_TARGET_S allows.

        Yields:
            For each compiled call, its steps' losses of the global batch before each update, float32 [steps].
        """
        num_steps, num_rows, _ = data.shape
        shares = self._shares(num_rows, global_rows).astype(np.float32)
        if not full:
            losses, states = self._train_short(tf.constant(data), tf.constant(shares))
            self._add(states)
            yield self._synced(losses, shares).numpy()
            return
        batches, weights = tf.constant(self._fill(data, "train")), tf.constant(self._fill(shares, "train"))
        start = 0
        while start < num_steps:
            stop = min(start + self._call_length(steps_per_call, num_steps), num_steps)
            begun_s = time.perf_counter()
            losses, states = self._train(batches, tf.constant(start), tf.constant(stop), weights)
            losses = self._synced(losses, weights).numpy()[start:stop]
            self._steps_per_call = max(1, int(CALL_TARGET_S / (time.perf_counter() - begun_s) * (stop - start)))
            if stop == num_steps:
                self._add(states)
            start = stop
            yield losses

    def evaluate(self, data: Floats, global_rows: npt.NDArray[np.int64], *, full: bool) -> float:
        """The sum, over `data`'s batches, of this worker's part of the loss times the rows in the global batch."""
        num_steps, num_rows, _ = data.shape
        run = self._evaluate if full else self._evaluate_short
        losses, states = run(tf.constant(self._fill(data, "evaluate") if full else data), tf.constant(num_steps))
        self._add(states)
        weights = self._shares(num_rows, global_rows) * global_rows
        return float(np.dot(losses.numpy()[:num_steps].astype(np.float64), weights))

    def average_state(self) -> None:
        """Averages over the workers what training changed besides weights: the statistics of batch normalization."""
        for variable in self.model.non_trainable_variables:
            if not self._alone and np.issubdtype(np.dtype(variable.dtype), np.floating):
                total = self._backend.sum(np.asarray(variable.numpy(), np.float64))
                variable.assign(total / self._backend.world.size)

    def finalize(self) -> None:
        """After the last epoch, what Keras's `fit` does there: weights become their averages under `use_ema`."""
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

    def _call_length(self, wanted: int | None, num_steps: int) -> int:
        if self._sync_every > 1:
            return self._sync_every
        return wanted or self._steps_per_call or num_steps

    def _synced(self, losses: tf.Tensor, shares: Any) -> tf.Tensor:
        """With local steps, averages the weights now and makes the workers' own losses those of the global batch."""
        return losses if self._sync_every == 1 else self._averager.average(losses * shares)

    def _shares(self, num_rows: int, global_rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """This worker's part of each step's loss: its part of the rows, or all where the loss is a sum over rows."""
        if self._sums_over_rows:
            return np.full(len(global_rows), float(num_rows > 0))
        return num_rows / global_rows

    def _fill(self, array: Any, pass_name: str) -> Any:
        """`array` with as many steps as the first superbatch had, so that an epoch's last one compiles nothing."""
        self._capacity[pass_name] = capacity = max(self._capacity[pass_name], len(array))
        if len(array) == capacity:
            return array
        return np.concatenate([array, np.zeros((capacity - len(array), *array.shape[1:]), array.dtype)])

    def _add(self, states: list[tf.Tensor]) -> None:
        for total, state in zip(self._totals, states, strict=True):
            total += state.numpy()


class _Compiled:
    """A function as one XLA program or, where its model has something that XLA cannot compile, as a graph."""

    def __init__(self, function: Callable[..., Any], use_xla: bool) -> None:
        self._function = function
        self._run = tf.function(function, jit_compile=use_xla)
        self._may_fall_back = use_xla

    def __call__(self, *arguments: tf.Tensor) -> Any:
        try:
            result = self._run(*arguments)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            if not self._may_fall_back:
                raise
            reason = str(error.message).strip().splitlines()[0]
            warnings.warn(f"XLA cannot compile this model, so it runs as a graph, slower: {reason}", stacklevel=2)
            self._run = tf.function(self._function, reduce_retracing=True)
            result = self._run(*arguments)
        self._may_fall_back = False
        return result


def _build(model: keras.Model, num_features: int) -> None:
    """Creates every variable outside the compiled functions, which may not create any, from one row of zeros."""
    x = tf.zeros([1, num_features])
    try:
        predictions = model(x, training=False)
        model.compute_loss(x, tf.zeros_like(predictions), predictions, None, training=False)
        model.compute_metrics(x, tf.zeros_like(predictions), predictions)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"the model cannot take rows of {num_features} features: {reason}") from error
    model.optimizer.build(model.trainable_variables)
    model.reset_metrics()
