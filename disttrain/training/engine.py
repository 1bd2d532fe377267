"""The superstep: many optimizer updates, or evaluations, in one compiled call."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from disttrain.data.row_source import Floats
from disttrain.data.superbatches import Superbatch
from disttrain.distributed.backend import Backend
from disttrain.errors import UsageError
from disttrain.training.bounds import UncheckedError
from disttrain.training.building import build
from disttrain.training.local_sgd import LocalRounds
from disttrain.training.metric_sums import MetricSums, Sums, Value
from disttrain.training.optimizer import AllReduceOptimizer
from disttrain.training.small_network import is_small, products_as_loops, set_xla_flags
from disttrain.training.steps import NO_FAULT, OWN_FAULT, Steps, sums_over_rows

# A call that takes longer is cut into shorter ones, so that progress, callbacks and signals are not kept waiting.
CALL_TARGET_S = 0.5
MAX_STEPS_PER_CALL = 1 << 20
SMALL_STATE_BYTES = 1 << 20  # kept at each call: 10 to 100 microseconds to copy, beside a call of 20 milliseconds
CALL_GROWTH = 8  # how much longer than the one before a call may be while nothing is known of the steps' time


@dataclass(frozen=True, eq=False)
class OnDevices:
    """A superbatch's rows on this worker's devices: `batches`, of which the steps [start, stop) are taken.

    `batches` has room for `capacity` steps, which may be more than the superbatch has where the shape is the compiled
    one. `rows_of_replicas` and `global_rows` are the superbatch's.
    """

    batches: Any
    start: int
    stop: int
    capacity: int
    is_full: bool
    rows_of_replicas: tuple[int, ...]
    global_rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Superstep:
    """The result of one compiled call: `losses` and `faults` of the steps that it took, float32 [steps] each.

    The losses are those of the global batch before each update; with `votes`, float32 [votes] summed over all
    workers, they are the same on every worker.
    """

    losses: Floats
    faults: Floats
    votes: Floats

    @property
    def applied(self) -> npt.NDArray[np.bool_]:
        """Which steps' updates were made: all but those whose loss or gradient was not finite, bool [steps]."""
        return np.asarray(self.faults == NO_FAULT)

    @property
    def own_faults(self) -> npt.NDArray[np.bool_]:
        """Which steps failed for this worker's own numbers, bool [steps]."""
        return np.asarray(self.faults == OWN_FAULT)


class Engine:
    """Runs supersteps of a compiled Keras model on this worker's part of each global batch.

    With a backend that fuses steps a superstep is one XLA program with the loop over its steps inside. Otherwise the
    loop is a graph: with one all-reduce in every step or, with `sync_every` above 1, with rounds of steps that are an
    XLA program each and one all-reduce between them. The short step at the end of an epoch always runs as a graph: it
    comes once an epoch, and compiling its shape would take longer than running it.

    Where a worker drives several devices, the rows of each step are dealt to its replicas, shard by shard.
    """

    def __init__(
        self,
        model: keras.Model,
        backend: Backend,
        num_features: int,
        sync_every: int = 1,
        *,
        num_targets: int = 1,
        rows_per_step: int = 0,
        skips_nonfinite: bool = False,
        compresses: bool = False,
    ) -> None:
        """Builds the variables, in the scope of the backend's replicas; `synchronize` follows before the first step.

        Args:
            model: takes float32 [rows, num_features].
            backend: averages over the workers.
            num_features: columns of a row that are no targets.
            sync_every: steps that each worker takes alone before weights are averaged; 1 averages every gradient.
            num_targets: columns of a row that are.
            rows_per_step: of this worker, in its full steps; 0 where that is not known.
            skips_nonfinite: leaves out a step whose loss or gradient is not finite; else the call ends before it.
            compresses: sends gradients as 16-bit floats.
        """
        self.model = model
        self._backend = backend
        self._num_features = num_features
        self._replicas = backend.replicas
        self._alone = backend.world.num_replicas == 1
        self._sync_every = sync_every if not self._alone else 1
        reduces = not self._alone and sync_every == 1
        self._capacity, self._steps_per_call = {"train": 0, "evaluate": 0}, self._sync_every
        self._step_s = 0.0  # what a step of this worker's last call took
        build(model, num_features, num_targets)
        if self._replicas.num_in_sync > 1:
            _check_strategy(model.optimizer, sync_every, compresses=compresses)
        optimizer = AllReduceOptimizer(model.optimizer, backend.reduce if reduces else None, compresses=compresses)
        self._kept = [] if skips_nonfinite or reduces else _small_state(model)
        self._read_kept = tf.function(lambda: [tf.identity(v.value) for v in self._kept])
        settings: dict[str, Any] = {"skips_nonfinite": skips_nonfinite, "chooses": not self._kept}
        make_steps = partial(Steps, model, optimizer, backend, num_features, **settings)
        as_loops = not reduces and is_small(model, rows_per_step) and set_xla_flags()
        fused = make_steps(is_fused=True, tracing=products_as_loops if as_loops else nullcontext)
        self._steps = steps, _ = make_steps(), fused
        rounds = LocalRounds(steps, backend.reduce, sync_every) if self._sync_every > 1 else None

        def make_train(use_xla: bool) -> Callable[..., Any]:
            train_steps: Callable[..., Any]
            train_steps = tf.function((fused if use_xla else steps).train_steps, jit_compile=use_xla)
            return train_steps if rounds is None else rounds.train_with(train_steps)

        self._train = _Compiled(make_train, use_xla=backend.fuses_steps or not reduces)
        self._train_short = make_train(False)
        self._evaluate = _Compiled(
            lambda use_xla: tf.function((fused if use_xla else steps).evaluate_steps, jit_compile=use_xla),
            use_xla=self._replicas.count == 1,
        )
        self._evaluate_short = tf.function(steps.evaluate_steps)
        self.totals = MetricSums(model, self._replicas)

    @property
    def looks_up(self) -> bool:
        """Whether the model or its loss looks something up by an index or a label that may be out of range."""
        return any(steps.looks_up for steps in self._steps)

    def synchronize(self) -> None:
        """Gives all workers rank 0's weights and optimizer state."""
        self._backend.broadcast([*self.model.variables, *self.model.optimizer.variables])

    def compile(
        self, shape: tuple[int, int, int], *, training: bool, num_votes: int = 0, rows_of_replicas: Sequence[int] = ()
    ) -> None:
        """Compiles the superstep of full batches without taking a step.

        Args:
            shape: of those, (steps, rows_per_step, columns).
            training: whether of training or of evaluation.
            num_votes: as many as `train` is given.
            rows_of_replicas: as a Superbatch has them; all rows go to the one replica where there are none.
        """
        none = tf.constant(0)
        self._capacity["train" if training else "evaluate"] = shape[0]
        parts = tuple(rows_of_replicas) or shape[1:2]
        nothing = Superbatch(np.zeros(shape, np.float32), 0, np.ones(shape[0], np.int64), parts)
        batches = self.copy_to_devices(nothing, training=training).batches
        if training:
            start = tf.constant(-self._sync_every if self._sync_every > 1 else 0)
            shares = self._replicas.copy([np.zeros(shape[0], np.float32)] * self._replicas.count)
            self._train(batches, start, none, shares, tf.zeros([num_votes + 1]))
        else:
            self._evaluate(batches, none)

    def copy_to_devices(self, superbatch: Superbatch, *, training: bool = True) -> OnDevices:
        """Copies a superbatch to this worker's devices; another thread may do so while steps are taken.

        Where it begins with `steps_before` steps that an earlier process took, and the totals that this one left were
        put back, the metrics come out as if this process had taken them.

        Args:
            superbatch: its rows, and what is to become of them.
            training: whether for `train` or for `evaluate`.
        """
        data, start = superbatch.data, superbatch.steps_before
        stop = start + len(data)
        capacity = stop
        if superbatch.is_full:
            capacity = max(self._capacity["train" if training else "evaluate"], stop)
        if len(data) < capacity:
            whole = np.zeros((capacity, *data.shape[1:]), np.float32)
            whole[start:stop] = data
            data = whole
        parts = superbatch.rows_of_replicas
        split = np.split(data, np.cumsum(parts[:-1]), axis=1) if len(parts) > 1 else [data]
        batches = self._replicas.copy(split)
        return OnDevices(batches, start, stop, capacity, superbatch.is_full, parts, superbatch.global_rows)

    def train(
        self,
        rows: OnDevices,
        *,
        votes: Callable[[], Floats] = lambda: np.zeros(0, np.float32),
        steps_per_call: int | None = None,
    ) -> Generator[Superstep, None, None]:
        """Takes one optimizer step for each of a superbatch's batches.

        Args:
            rows: what `copy_to_devices` gave.
            votes: asked before each superstep for float32 [votes], which is summed over all workers with the gradients;
                as many on every worker, each time.
            steps_per_call: steps of one superstep; None for as many as CALL_TARGET_S allows.

        Yields:
            The result of each superstep; after one with a fault, unless those are skipped, no other follows.
        """
        if not rows.start:
            self.totals.fold()
        run = partial(self._train if rows.is_full else self._train_short, rows.batches)
        weights = self._replicas.copy([_filled(shares, rows) for shares in self._shares(rows)])
        start = rows.start
        while start < rows.stop:
            stop = min(start + (steps_per_call or self._steps_per_call), rows.stop)
            ballot = tf.constant(np.append(votes(), np.float32(self._step_s)), tf.float32)
            begun_s = time.perf_counter()
            losses, faults, summed, states = self._call(run, start, stop, weights, ballot)
            self._time_calls((time.perf_counter() - begun_s) / (stop - start), float(summed[-1]))
            self.totals.see(states)
            if stop == rows.stop:
                self.totals.fold()
            start = stop
            yield Superstep(losses, faults, summed[:-1])

    def _call(
        self, run: Callable[..., Any], start: int, stop: int, *others: Any
    ) -> tuple[Floats, Floats, Floats, Sequence[Any]]:
        """The steps [start, stop): their losses and faults, the votes' sums, and the metrics' states.

        Where the steps make every update, a fault takes all back to where the call began, and then up to that step.
        """
        kept = self._read_kept() if self._kept else []
        losses, faults, summed, states = run(tf.constant(start), tf.constant(stop), *others)
        losses, faults = losses.numpy()[start:stop], faults.numpy()[start:stop]
        if kept and faults.any():
            for variable, value in zip(self._kept, kept, strict=True):
                variable.assign(value)
            *_, states = run(tf.constant(start), tf.constant(start + int(np.flatnonzero(faults)[0])), *others)
        return losses, faults, summed.numpy(), states

    def evaluate(self, rows: OnDevices) -> float:
        """The sum, over a superbatch's batches, of this worker's part of the loss times the rows in the global batch.

        Args:
            rows: what `copy_to_devices` gave.
        """
        run = self._evaluate if rows.is_full else self._evaluate_short
        losses, states = run(rows.batches, tf.constant(rows.stop))
        self.totals.see(states)
        self.totals.fold()
        own_losses = [own.numpy()[: rows.stop].astype(np.float64) for own in self._replicas.results(losses)]
        return sum(
            float(np.dot(own, share * rows.global_rows))
            for own, share in zip(own_losses, self._shares(rows), strict=True)
        )

    def summed_totals(self) -> Sums:
        """The metrics' sums so far, over all workers; a collective."""
        return [self._backend.sum(total) for total in self.totals.sums]

    def metric_values(self) -> dict[str, Value]:
        """The metrics' values so far, over all workers; a collective."""
        return self.totals.values_of(self.summed_totals())

    def average_state(self) -> None:
        """Averages over the workers what training changed besides weights: the statistics of batch normalization."""
        for variable in self.model.non_trainable_variables:
            if not self._alone and np.issubdtype(np.dtype(variable.dtype), np.floating):
                total = self._backend.sum(self._replicas.read(variable).astype(np.float64).sum(axis=0))
                variable.assign(total / self._backend.world.num_replicas)

    def finalize(self) -> None:
        """After the last epoch, what Keras's `fit` does there: weights become their averages under `use_ema`."""
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

    def _time_calls(self, own_step_s: float, summed_step_s: float) -> None:
        """Sets the next call's steps, alike on all workers: by the workers' mean for a step of the call before.

        A time that jumps up is believed step by step: the first short step of a run is traced while it is timed.
        """
        self._step_s = min(own_step_s, 2 * self._step_s or own_step_s)
        wanted = min(self._steps_per_call * CALL_GROWTH, MAX_STEPS_PER_CALL)
        if summed_step_s:
            wanted = min(wanted, int(CALL_TARGET_S * self._backend.world.size / summed_step_s))
        self._steps_per_call = max(wanted // self._sync_every, 1) * self._sync_every

    def _shares(self, rows: OnDevices) -> list[npt.NDArray[np.float64]]:
        """Each replica's part of each step's loss: its part of the rows, or all where the loss is a sum over rows."""
        if sums_over_rows(self.model):
            return [np.full(len(rows.global_rows), float(own > 0)) for own in rows.rows_of_replicas]
        return [own / rows.global_rows for own in rows.rows_of_replicas]


def _filled(shares: npt.NDArray[np.float64], rows: OnDevices) -> Floats:
    """`shares` of the steps that are taken, for all that there is room for."""
    return np.pad(shares, (rows.start, rows.capacity - rows.stop)).astype(np.float32)


class _Compiled:
    """A function with XLA or, where its model has something that XLA cannot compile, as a graph."""

    def __init__(self, make: Callable[[bool], Callable[..., Any]], *, use_xla: bool) -> None:
        """`make` gives the function, with XLA or without."""
        self._make = make
        self._run = make(use_xla)
        self._may_fall_back = use_xla

    def __call__(self, *arguments: tf.Tensor) -> Any:
        try:
            result = self._run(*arguments)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, UncheckedError) as error:
            if not self._may_fall_back:
                raise
            reason = "it looks something up inside a tf.function of its own"
            if not isinstance(error, UncheckedError):
                reason = str(error.message).strip().splitlines()[0]
            warnings.warn(f"XLA cannot compile this model, so it runs as a graph, slower: {reason}", stacklevel=2)
            self._run = self._make(False)
            result = self._run(*arguments)
        self._may_fall_back = False
        return result


def _small_state(model: keras.Model) -> list[Any]:
    """All that a step changes, if it is small enough to be kept at each call; else nothing."""
    variables = [*model.variables, *model.optimizer.variables]
    variables += [v for v in model.metrics_variables if all(v is not other for other in variables)]
    num_bytes = sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in variables)
    return variables if num_bytes <= SMALL_STATE_BYTES else []


def _check_strategy(optimizer: keras.Optimizer, sync_every: int, *, compresses: bool) -> None:
    """Raises UsageError for what only Horovod can do, or waits for others where `tf.distribute` lets none wait."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for what, is_wanted in (
        (f"--sync-every {sync_every}", sync_every > 1),
        ("--compression fp16", compresses),
        ("gradient_accumulation_steps", inner.gradient_accumulation_steps is not None),
        ("ema_overwrite_frequency", inner.use_ema and inner.ema_overwrite_frequency is not None),
    ):
        if is_wanted:
            raise UsageError(f"{what} is not possible under tf.distribute; use Horovod: one worker for each device")
