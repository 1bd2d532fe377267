"""The superstep: many optimizer updates, or evaluations, in one compiled call."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from disttrain.data.row_source import Floats
from disttrain.data.superbatches import Superbatch
from disttrain.data.table.columns import Column
from disttrain.distributed.backend import Backend
from disttrain.errors import UsageError
from disttrain.training.building import build
from disttrain.training.compiled import Compiled
from disttrain.training.inputs import Inputs, averages_by_weight
from disttrain.training.local_sgd import LocalRounds
from disttrain.training.metric_sums import MetricSums, Sums, Value
from disttrain.training.optimizer import AllReduceOptimizer
from disttrain.training.small_network import is_small, products_as_loops, set_xla_flags
from disttrain.training.small_steps import SmallSteps
from disttrain.training.steps import NO_FAULT, OWN_FAULT, Steps, sums_over_rows

# Longer supersteps are split into shorter ones, so that progress, callbacks and signals do not have to wait.
SUPERSTEP_TARGET_S = 0.5
MAX_STEPS_PER_SUPERSTEP = 1 << 20
SMALL_STATE_BYTES = 1 << 20  # copied before each superstep, which takes 20 milliseconds, in 10 to 100 microseconds
SUPERSTEP_GROWTH = 8  # at most so many times the last superstep's steps: at first, their time is unknown


@dataclass(frozen=True, eq=False)
class OnDevices:
    """A superbatch's rows on this worker's devices: `batches`, of which the steps [start, stop) are taken.

    `batches` has room for `capacity` steps; if it has the compiled shape, these may be more than the superbatch has.
    `rows_of_replicas` and `global_rows` are the superbatch's.
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
    """The result of one superstep: `losses` and `faults` of the steps that it took, float32 [steps] each.

    The losses are those of the global batch before each update. `votes` is float32 [votes], summed over all workers.
    Losses and votes are the same on every worker.
    """

    losses: Floats
    faults: Floats
    votes: Floats

    @property
    def applied(self) -> npt.NDArray[np.bool_]:
        """Whether each step's update was applied, bool [steps]: false where the loss or gradient was not finite."""
        return np.asarray(self.faults == NO_FAULT)

    @property
    def own_faults(self) -> npt.NDArray[np.bool_]:
        """Whether each step failed because of this worker's own loss or gradient, bool [steps]."""
        return np.asarray(self.faults == OWN_FAULT)


class Engine:
    """Runs supersteps of a compiled Keras model on this worker's part of each global batch.

    With a backend that fuses steps, a superstep is one XLA program that contains the loop over its steps. Otherwise the
    loop is a TensorFlow graph with one all-reduce in every step. With `sync_every` above 1, the graph loops over rounds
    of steps: each round is one XLA program, followed by one all-reduce. The short step at the end of an epoch always
    runs as a graph: it comes once an epoch, and compiling its shape would take longer than running it.

    Where a worker drives several devices, the rows of each step are distributed over its replicas, shard by shard.
    """

    def __init__(
        self,
        model: keras.Model,
        backend: Backend,
        num_features: int,
        sync_every: int = 1,
        *,
        num_targets: int = 1,
        is_weighted: bool = False,
        by_name: Sequence[Column] | None = None,
        unit: float = 1.0,
        rows_per_step: int = 0,
        skips_nonfinite: bool = False,
        compresses: bool = False,
    ) -> None:
        """Builds the variables in the scope of the backend's replicas; call `synchronize` before the first step.

        Args:
            model: takes float32 [rows, num_features], or columns by name.
            backend: averages over the workers.
            num_features: columns of a row that are not targets.
            sync_every: steps that each worker takes alone before weights are averaged; 1 averages every gradient.
            num_targets: columns of a row that are targets.
            is_weighted: whether a row's last column is its weight.
            by_name: the columns of a model that takes them by name.
            unit: a loss of ordinary size, by which the loss is divided before its gradients are taken: an optimizer
                such as Adam takes the same steps, but no gradient overflows.
            rows_per_step: rows in a full step of the worker that has most; 0 if not known.
            skips_nonfinite: skips the update of a step whose loss or gradient is not finite; if false, the superstep
                ends before that update.
            compresses: sends gradients as 16-bit floats.
        """
        self.model = model
        self._backend = backend
        self._replicas = backend.replicas
        self._alone = backend.world.num_replicas == 1
        self._sync_every = sync_every if not self._alone else 1
        reduces = not self._alone and sync_every == 1
        fuses = backend.fuses_steps or not reduces
        self._capacity, self._steps_per_superstep = {"train": 0, "evaluate": 0}, self._sync_every
        self._step_s = 0.0  # seconds per step in this worker's last superstep
        self.inputs = Inputs(num_features, num_targets, is_weighted, by_name)
        build(model, self.inputs)
        if self._replicas.num_in_sync > 1:
            _check_strategy(model.optimizer, sync_every, compresses=compresses)
        self._kept = [] if skips_nonfinite or not fuses else _small_state(model)
        self._read_kept = tf.function(lambda: [tf.identity(v.value) for v in self._kept])
        as_loops = fuses and is_small(model, rows_per_step) and set_xla_flags()
        self._steps = steps, fused = _make_steps(
            model, backend, self.inputs, unit, reduces=reduces, as_loops=as_loops, compresses=compresses,
            skips_nonfinite=skips_nonfinite, chooses=not self._kept,
        )  # fmt: skip
        self._train = Compiled(self._make_train, use_xla=fuses)
        self._train_short = self._make_train(False)
        self._evaluate = Compiled(
            lambda use_xla: tf.function((fused if use_xla else steps).evaluate_steps, jit_compile=use_xla),
            use_xla=self._replicas.count == 1,
        )
        self._evaluate_short = tf.function(steps.evaluate_steps)
        self.totals = MetricSums(model, self._replicas)

    def _make_train(self, use_xla: bool) -> Callable[..., Any]:
        """Returns the function that trains on a superbatch, as a graph or compiled by XLA."""
        steps, fused = self._steps
        train_steps = tf.function((fused if use_xla else steps).train_steps, jit_compile=use_xla)
        if self._sync_every == 1:
            return cast(Callable[..., Any], train_steps)
        in_xla = use_xla and self._backend.fuses_steps
        reduce = partial(self._backend.reduce, in_xla=in_xla)
        return LocalRounds(steps, reduce, self._sync_every, in_xla=in_xla).train_with(train_steps)

    @property
    def looks_up(self) -> bool:
        """Whether the model or its loss looks something up by an index or a label that may be out of range."""
        return any(steps.looks_up for steps in self._steps)

    def synchronize(self) -> None:
        """Gives all workers the leader's weights and optimizer state."""
        self._backend.broadcast([*self.model.variables, *self.model.optimizer.variables])

    def compile(
        self, shape: tuple[int, int, int], *, training: bool, num_votes: int = 0, rows_of_replicas: Sequence[int] = ()
    ) -> None:
        """Compiles the superstep of full batches without taking a step.

        Args:
            shape: shape of the superbatch, (steps, rows_per_step, columns).
            training: compiles the superstep of training; if false, that of evaluation.
            num_votes: number of votes that `train` will be given.
            rows_of_replicas: as in a Superbatch; if empty, all rows go to the only replica.
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
        """Copies a superbatch to this worker's devices; another thread may call this while steps are taken.

        An earlier process may have taken the first `steps_before` steps. Once that process's metric sums are restored,
        the metrics are as if this process had taken those steps.

        Args:
            superbatch: the rows, and how they are divided into steps and among replicas.
            training: copies for `train`; if false, for `evaluate`.
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
        steps_per_superstep: int | None = None,
    ) -> Generator[Superstep, None, None]:
        """Takes one optimizer step for each of a superbatch's batches.

        Args:
            rows: what `copy_to_devices` gave.
            votes: called before each superstep for float32 [votes], which is summed over all workers with the
                gradients; there must be equally many on every worker and each time.
            steps_per_superstep: steps of one superstep; None for as many as SUPERSTEP_TARGET_S allows.

        Yields:
            The result of each superstep. After one with a fault the caller must stop, unless faulty steps are skipped.
        """
        if not rows.start:
            self.totals.fold()
        run = partial(self._train if rows.is_full else self._train_short, rows.batches)
        weights = self._replicas.copy([_padded(shares, rows) for shares in self._shares(rows)])
        start = rows.start
        while start < rows.stop:
            stop = min(start + (steps_per_superstep or self._steps_per_superstep), rows.stop)
            ballot = tf.constant(np.append(votes(), np.float32(self._step_s)), tf.float32)
            begun_s = time.perf_counter()
            losses, faults, summed, states = self._run_superstep(run, start, stop, weights, ballot)
            self._time_superstep((time.perf_counter() - begun_s) / (stop - start), float(summed[-1]))
            self.totals.see(states)
            if stop == rows.stop:
                self.totals.fold()
            start = stop
            yield Superstep(losses, faults, summed[:-1])

    def _run_superstep(
        self, run: Callable[..., Any], start: int, stop: int, *others: Any
    ) -> tuple[Floats, Floats, Floats, Sequence[Any]]:
        """Takes the steps [start, stop); returns losses and faults, the summed votes, and the metrics' states.

        Where the compiled steps apply even a faulty update, a fault makes this restore the state from before the
        superstep, and repeat the steps up to the faulty one.
        """
        kept = self._read_kept() if self._kept else []
        losses, faults, summed, states = run(tf.constant(start), tf.constant(stop), *others)
        losses, faults = losses.numpy()[start:stop], faults.numpy()[start:stop]
        self._backend.check()
        if kept and faults.any():
            for variable, value in zip(self._kept, kept, strict=True):
                variable.assign(value)
            *_, states = run(tf.constant(start), tf.constant(start + int(np.flatnonzero(faults)[0])), *others)
        return losses, faults, summed.numpy(), states

    def evaluate(self, rows: OnDevices, *, is_stopping: bool = False) -> float | None:
        """Returns the sum over a superbatch's batches of this worker's part of the loss times the global batch's rows.

        Where it `averages_by_weight`, this is a collective, and None on all workers if any of them is to stop.

        Args:
            rows: what `copy_to_devices` gave.
            is_stopping: whether this worker is to stop.
        """
        run = self._evaluate if rows.is_full else self._evaluate_short
        losses, weights, states = run(rows.batches, tf.constant(rows.stop))
        self.totals.see(states)
        self.totals.fold()
        shares = self._shares(rows)
        if self.averages_by_weight:
            own_weights = [own.numpy()[: rows.stop].astype(np.float64) for own in self._replicas.results(weights)]
            *whole, num_stopping = self._backend.sum(np.append(np.sum(own_weights, axis=0), float(is_stopping)))
            if num_stopping:
                return None
            shares = [own / np.where(np.array(whole) > 0, whole, 1.0) for own in own_weights]
        own_losses = [own.numpy()[: rows.stop].astype(np.float64) for own in self._replicas.results(losses)]
        parts = zip(own_losses, shares, strict=True)
        return sum((float(np.dot(own, share * rows.global_rows)) for own, share in parts), 0.0)

    @property
    def averages_by_weight(self) -> bool:
        """Whether the loss of a batch is divided by the sum of its rows' weights."""
        return self.inputs.is_weighted and averages_by_weight(self.model.loss)

    def summed_totals(self) -> Sums:
        """Sums the metrics' sums so far over all workers; a collective."""
        return [self._backend.sum(total) for total in self.totals.sums]

    def metric_values(self) -> dict[str, Value]:
        """Returns the metrics' values so far, over all workers; a collective."""
        return self.totals.values_of(self.summed_totals())

    def average_state(self) -> None:
        """Averages over the workers what training changes besides weights: batch normalization's statistics."""
        for variable in self.model.non_trainable_variables:
            if not self._alone and np.issubdtype(np.dtype(variable.dtype), np.floating):
                total = self._backend.sum(self._replicas.read(variable).astype(np.float64).sum(axis=0))
                variable.assign(total / self._backend.world.num_replicas)

    def finalize(self) -> None:
        """Does what Keras's `fit` does after the last epoch: under `use_ema`, weights become their averages."""
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

    def _time_superstep(self, own_step_s: float, summed_step_s: float) -> None:
        """Sets the next superstep's number of steps, equal on all workers, from their mean time per step in the last.

        The time per step may at most double from one superstep to the next, because the first short step of a run is
        traced while it is timed.
        """
        self._step_s = min(own_step_s, 2 * self._step_s or own_step_s)
        wanted = min(self._steps_per_superstep * SUPERSTEP_GROWTH, MAX_STEPS_PER_SUPERSTEP)
        if summed_step_s:
            wanted = min(wanted, int(SUPERSTEP_TARGET_S * self._backend.world.size / summed_step_s))
        self._steps_per_superstep = max(wanted // self._sync_every, 1) * self._sync_every

    def _shares(self, rows: OnDevices) -> list[npt.NDArray[np.float64]]:
        """Returns each replica's part of each step's loss: its part of the rows, or 1 if the loss sums over rows."""
        if sums_over_rows(self.model):
            return [np.full(len(rows.global_rows), float(own > 0)) for own in rows.rows_of_replicas]
        return [own / rows.global_rows for own in rows.rows_of_replicas]


def _padded(shares: npt.NDArray[np.float64], rows: OnDevices) -> Floats:
    """Pads `shares` of the steps that are taken with zeros, for all steps that there is room for."""
    return np.pad(shares, (rows.start, rows.capacity - rows.stop)).astype(np.float32)


def _make_steps(
    model: keras.Model,
    backend: Backend,
    inputs: Inputs,
    unit: float,
    *,
    reduces: bool,
    as_loops: bool,
    compresses: bool,
    chooses: bool,
    skips_nonfinite: bool,
) -> tuple[Steps, Steps]:
    """Returns the steps of a graph, and those that XLA compiles, which may be a small network's (`as_loops`)."""

    def make(kind: type[Steps] = Steps, *, is_fused: bool = False, **tracing: Any) -> Steps:
        reduce = partial(backend.reduce, in_xla=is_fused) if reduces else None
        optimizer = AllReduceOptimizer(model.optimizer, reduce, compresses=compresses)
        settings = {"skips_nonfinite": skips_nonfinite, "chooses": chooses, "is_fused": is_fused, **tracing}
        return kind(model, optimizer, backend, inputs, unit=unit, **settings)

    is_usual = not (chooses or compresses or inputs.is_weighted)
    kind = SmallSteps if as_loops and reduces and is_usual else Steps
    return make(), make(kind, is_fused=True, tracing=products_as_loops if as_loops else nullcontext)


def _small_state(model: keras.Model) -> list[Any]:
    """Returns all variables that a step changes if they are small enough to copy before each superstep, else none."""
    variables = [*model.variables, *model.optimizer.variables]
    variables += [v for v in model.metrics_variables if all(v is not other for other in variables)]
    num_bytes = sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in variables)
    return variables if num_bytes <= SMALL_STATE_BYTES else []


def _check_strategy(optimizer: keras.Optimizer, sync_every: int, *, compresses: bool) -> None:
    """Raises UsageError for settings that only Horovod supports; some would make replicas wait inside a branch."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for what, is_wanted in (
        (f"--sync-every {sync_every}", sync_every > 1),
        ("--compression fp16", compresses),
        ("gradient_accumulation_steps", inner.gradient_accumulation_steps is not None),
        ("ema_overwrite_frequency", inner.use_ema and inner.ema_overwrite_frequency is not None),
    ):
        if is_wanted:
            raise UsageError(f"{what} is not possible under tf.distribute; use Horovod: one worker for each device")
