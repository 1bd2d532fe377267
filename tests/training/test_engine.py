"""Supersteps against Keras's own training step, for the parts of a model that keep state or cannot be compiled."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import regression_rows

from disttrain.data.superbatches import Superbatch
from disttrain.distributed.backend import World
from disttrain.distributed.horovod import HorovodBackend, start_horovod
from disttrain.distributed.local import LocalBackend
from disttrain.distributed.replicas import OneReplica
from disttrain.errors import UsageError
from disttrain.training import engine as engine_module
from disttrain.training.engine import Engine

ROWS, BATCH = 530, 50  # ten full steps and a short one of 30 rows


@pytest.fixture(scope="module")
def backend():
    """A backend for a process in which another test has started TensorFlow, so that devices and threads are fixed."""
    return LocalBackend("local", OneReplica())


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(3)


def network(*layers, **compile_arguments):
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
    model.compile(**({"optimizer": keras.optimizers.Adam(0.01), "loss": "mse"} | compile_arguments))
    return model


def superbatch(data, global_rows, is_full=True):
    return Superbatch(data, 0, np.asarray(global_rows), data.shape[1:2], is_full=is_full)


def supersteps(engine, data, global_rows, is_full=True, steps_per_superstep=None):
    """The results of the supersteps on these rows."""
    rows = engine.copy_to_devices(superbatch(data, global_rows, is_full))
    return engine.train(rows, steps_per_superstep=steps_per_superstep)


def evaluated(engine, data, global_rows, is_full=True):
    """The sum of the losses of these rows."""
    return engine.evaluate(engine.copy_to_devices(superbatch(data, global_rows, is_full), training=False))


def train_epoch(engine, x, y, steps_per_superstep=None):
    """One epoch through the engine as the trainer drives it; returns the mean loss and the metrics."""
    rows = np.concatenate([x, y], axis=1)
    full = len(rows) // BATCH
    engine.totals.reset()
    packs = [(rows[: full * BATCH].reshape(full, BATCH, -1), True), (rows[full * BATCH :][np.newaxis], False)]
    loss_sum = 0.0
    for data, is_full in packs:
        counts = np.full(len(data), data.shape[1])
        calls = supersteps(engine, data, counts, is_full, steps_per_superstep)
        losses = np.concatenate([call.losses for call in calls])
        loss_sum += float(np.dot(losses, counts))
    return loss_sum / len(rows), engine.totals.values_of(engine.totals.sums)


CASES = {
    # batch normalization: its moving statistics are variables that no gradient changes
    # (no bias before it: its gradient is nothing but rounding, which Adam would blow up)
    "batch normalization": lambda: network(keras.layers.Dense(8, use_bias=False), keras.layers.BatchNormalization()),
    # regularization: losses of layers, added to the data's
    "regularization": lambda: network(keras.layers.Dense(8, kernel_regularizer="l2", activity_regularizer="l1")),
    # what an optimizer does besides its step: clipping, and an average that `fit` puts in place at its end
    "clipping and averaging": lambda: network(
        keras.layers.Dense(8, "relu"), optimizer=keras.optimizers.AdamW(0.01, global_clipnorm=0.1, use_ema=True)
    ),
    # a loss of three kinds of metrics: a mean, a root of a mean, and one with several sums
    "metrics": lambda: network(
        keras.layers.Dense(8, "relu"),
        metrics=["mae", keras.metrics.RootMeanSquaredError(), keras.metrics.R2Score()],
        weighted_metrics=["mse"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("steps_per_superstep", [None, 3])
def test_an_epoch_equals_one_of_keras_fit(backend, case, steps_per_superstep):
    x, y = regression_rows(ROWS)
    expected = CASES[case]()
    logs = expected.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0).history
    keras.utils.set_random_seed(3)
    model = CASES[case]()
    engine = Engine(model, backend, 3)
    loss, metrics = train_epoch(engine, x, y, steps_per_superstep)
    engine.finalize()
    assert loss == pytest.approx(logs["loss"][0], rel=1e-5)
    for name, value in metrics.items():
        assert value == pytest.approx(logs[name][0], rel=1e-4), name
    assert set(metrics) == set(logs) - {"loss"}
    for ours, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_dropout_draws_a_new_mask_every_step(backend):
    model = network(keras.layers.Dropout(0.5), optimizer=keras.optimizers.SGD(0.0))
    x, y = np.ones((10 * BATCH, 3), np.float32), np.ones((10 * BATCH, 1), np.float32)
    data = np.concatenate([x, y], axis=1).reshape(10, BATCH, 4)
    engine = Engine(model, backend, 3)
    calls = supersteps(engine, data, np.full(10, BATCH))
    losses = np.concatenate([call.losses for call in calls])
    assert len(set(losses.tolist())) == 10  # no weight moves, so the masks alone tell the steps apart


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.layers.Layer):
    """Calls Python from TensorFlow, which XLA cannot compile."""

    def call(self, x):
        doubled = tf.py_function(lambda value: value + value, [x], tf.float32)
        doubled.set_shape(x.shape)
        return doubled


def test_a_model_that_xla_cannot_compile_runs_as_a_graph_with_a_warning(backend):
    x, y = regression_rows(ROWS)
    logs = network(Doubled()).fit(x, y, batch_size=BATCH, shuffle=False, verbose=0).history
    keras.utils.set_random_seed(3)
    engine = Engine(network(Doubled()), backend, 3)
    with pytest.warns(UserWarning, match="XLA cannot compile this model, so it runs as a graph, slower: .*EagerPyFunc"):
        loss, _ = train_epoch(engine, x, y)
    assert loss == pytest.approx(logs["loss"][0], rel=1e-5)


CALLS = [
    # seconds that the first supersteps take, if not 0.01 a step; the steps of all supersteps, which aim at 0.5 s
    ((), [1, 8, 50, 50, 50, 41]),  # nothing is known at first
    ((30.0,), [1, 8, 1, 8, 50, 50, 50, 32]),  # compiled while it was timed
    ((0.01, 0.08, 2.5), [1, 8, 50, 50, 25, 50, 16]),  # slower for a moment: believed to be twice as slow at most
]


@pytest.mark.parametrize(("seconds", "expected"), CALLS)
def test_calls_grow_to_the_steps_that_half_a_second_allows(backend, monkeypatch, seconds, expected):
    engine = Engine(network(), backend, 3)
    rows = engine.copy_to_devices(superbatch(np.zeros((200, BATCH, 4), np.float32), np.full(200, BATCH)))
    taken = [*seconds, *(0.01 * steps for steps in expected[len(seconds) :])]
    clock = iter(
        time_s for call, call_s in enumerate(taken) for time_s in (sum(taken[:call]), sum(taken[:call]) + call_s)
    )
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert [len(call.losses) for call in engine.train(rows)] == expected


def test_workers_average_all_that_a_step_gives_in_one_all_reduce(monkeypatch):
    for name in ("HOROVOD_CONTROLLER", "HOROVOD_CPU_OPERATIONS"):  # MPI is not started
        monkeypatch.setenv(name, "gloo")
    one_of_two, started = HorovodBackend(World(0, 2, 0, 2)), start_horovod()
    steps = Engine(network(keras.layers.Dense(8), metrics=["mae"]), one_of_two, 3)._train._run
    scalar, shares, votes = tf.constant(0), tf.zeros([5]), tf.zeros([4])
    graph = steps.get_concrete_function(tf.zeros([5, BATCH, 4]), scalar, scalar, shares, votes).graph.as_graph_def()
    started.close()
    functions = {function.signature.name: function.node_def for function in graph.library.function}
    (loop,) = (node for node in graph.node if node.op == "While")
    in_a_step = [node.op for node in functions[loop.attr["body"].func.name]]
    everywhere = [node.op for nodes in (graph.node, *functions.values()) for node in nodes]
    assert [[ops.count(op) for op in set(ops) if "Horovod" in op] for ops in (in_a_step, everywhere)] == [[1], [1]]


def test_a_model_for_other_features_is_refused_in_one_line(backend):
    with pytest.raises(UsageError, match="cannot take rows of 4 features") as caught:
        Engine(network(), backend, 4)
    assert "\n" not in str(caught.value)


def test_evaluation_equals_keras_evaluate(backend):
    x, y = regression_rows(ROWS)
    model = network(keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.5), metrics=["mae"])
    engine = Engine(model, backend, 3)
    rows = np.concatenate([x, y], axis=1)
    loss_sum = evaluated(engine, rows[:500].reshape(10, BATCH, 4), np.full(10, BATCH))
    loss_sum += evaluated(engine, rows[500:][np.newaxis], [30], is_full=False)
    loss, mae = model.evaluate(x, y, batch_size=ROWS, verbose=0)
    assert loss_sum / ROWS == pytest.approx(loss, rel=1e-5)
    assert engine.totals.values_of(engine.totals.sums)["mae"] == pytest.approx(mae, rel=1e-5)


def batch_with(value):
    """Returns three batches; a target in the second makes the loss or the gradient not finite."""
    x, y = regression_rows(3 * BATCH)
    rows = np.concatenate([x, y], axis=1).reshape(3, BATCH, 4)
    rows[1, 7, 3] = value
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_call_ends_before_an_update_that_is_not_finite(backend, value):
    rows = batch_with(value)
    engine = Engine(network(keras.layers.Dense(8, "relu")), backend, 3)
    (call,) = supersteps(engine, rows, np.full(3, BATCH), steps_per_superstep=3)
    assert call.applied.tolist()[:2] == [True, False]
    assert call.own_faults[1]
    keras.utils.set_random_seed(3)
    expected = Engine(network(keras.layers.Dense(8, "relu")), backend, 3)
    list(supersteps(expected, rows[:1], np.full(1, BATCH)))
    for ours, theirs in zip(engine.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@keras.saving.register_keras_serializable("tests")
class Rooted(keras.layers.Layer):
    """The square root of an absolute value: its gradient at 0 is infinite, though the value is not."""

    def call(self, x):
        return keras.ops.sqrt(keras.ops.abs(x))


def test_a_gradient_alone_that_is_not_finite_is_found(backend):
    rows = batch_with(0.0)
    rows[1, :, :3] = 0.0  # so that the layer before the root gives 0
    engine = Engine(network(keras.layers.Dense(1, use_bias=False), Rooted()), backend, 3)
    (call,) = supersteps(engine, rows, np.full(3, BATCH), steps_per_superstep=3)
    assert call.applied.tolist()[:2] == [True, False]
    assert np.isfinite(call.losses[1])


def test_skipped_steps_change_nothing_and_the_next_ones_are_taken(backend):
    rows = batch_with(np.nan)
    engine = Engine(network(keras.layers.BatchNormalization()), backend, 3, skips_nonfinite=True)
    (call,) = supersteps(engine, rows, np.full(3, BATCH), steps_per_superstep=3)
    assert call.applied.tolist() == [True, False, True]
    keras.utils.set_random_seed(3)
    expected = Engine(network(keras.layers.BatchNormalization()), backend, 3)
    list(supersteps(expected, rows[[0, 2]], np.full(2, BATCH)))
    for ours, theirs in zip(engine.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_loss_scaling_goes_on_leaving_out_what_overflows_itself(backend):
    """The first scale, by default 2^15, is so large that the first gradients overflow; the loss is always finite."""
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=1e38)
    engine = Engine(network(optimizer=optimizer), backend, 3)
    before = engine.model.get_weights()
    x, y = regression_rows(200 * BATCH)
    rows = np.concatenate([x, y], axis=1).reshape(200, BATCH, 4)
    calls = list(supersteps(engine, rows, np.full(200, BATCH)))
    assert all(call.applied.all() for call in calls)
    assert float(optimizer.dynamic_scale.numpy()) < 1e38
    assert any((ours != theirs).any() for ours, theirs in zip(engine.model.get_weights(), before, strict=True))
