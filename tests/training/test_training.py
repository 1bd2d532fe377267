"""What a run computes: the same as plain Keras, whatever the number of workers, and the same every time."""

import contextlib
import functools
import os
import signal
import subprocess
import time

import keras
import numpy as np
import psutil
import pytest
from command import command_line, disttrain, environment, history, regression_rows, trained, weights, write_csv

from disttrain.data.sharding import Sharding

ROWS, BATCH, SHARDS, EPOCHS = 2003, 50, 4, 2  # shards of 501 and 500 rows: the last step has one row on one worker

OWN_MODELS = """
import keras

def compiled():
    keras.utils.set_random_seed(7)
    model = keras.Sequential([
        keras.Input((3,)),
        keras.layers.Dense(8, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.01)),
        keras.layers.Dense(1),
    ])
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=1.0), loss="mse", metrics=["mae"])
    return model

def summed(num_features, num_targets):
    model = keras.Sequential([keras.Input((num_features,)), keras.layers.Dense(num_targets, kernel_regularizer="l2")])
    model.compile(keras.optimizers.SGD(0.0001), loss=keras.losses.MeanSquaredError(reduction="sum"))
    return model

def plain(num_features, num_targets):
    return keras.Sequential([keras.Input((num_features,)), keras.layers.Dense(num_targets)])

def record(num_features, num_targets):
    "The network that is trained without a word about it; each process also saves its own weights."
    import atexit, os
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((num_features,)), dense(16, "relu"), dense(8, "relu"), dense(num_targets)])
    place = os.environ["SAVED_IN"]
    atexit.register(lambda: model.save(f"{place}-rank{os.environ['HOROVOD_RANK']}.keras"))
    return model
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("training")
    write_csv(directory / "data.csv", *regression_rows(ROWS))
    write_csv(directory / "validation.csv", *regression_rows(307, seed=1))
    (directory / "own_models.py").write_text(OWN_MODELS)
    return directory


def options(*more):
    return ("--data", "data.csv", "--batch-size", BATCH, "--epochs", EPOCHS, "--num-shards", SHARDS, *more)


@pytest.fixture(scope="module")
def alone(place):
    """The run of four shards on one worker, with which the others are compared."""
    return trained(place, "alone", *options("--validation-data", "validation.csv"))


@pytest.fixture(scope="module")
def launched(place):
    """Trains the same four shards on several workers; trains again only if another run is asked for."""

    @functools.cache
    def train(processes, number):
        name = f"world{processes}-{number}"
        more = ("--validation-data", "validation.csv", "--model", "own_models:record")
        return trained(place, name, *options(*more), processes=processes, SAVED_IN=name)

    return train


def global_batches(x, y, batch_size=BATCH, num_shards=SHARDS):
    """The batches of an epoch as the design defines them: each step joins what every shard gives to it."""
    sharding = Sharding(len(x), num_shards, batch_size)
    for step in range(sharding.num_steps):
        parts = [sharding.shard_step(shard, step) for shard in range(num_shards)]
        rows = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        yield x[rows], y[rows]


def fit_plainly(model, x, y, epochs=EPOCHS):
    """Keras's own `fit` on the same global batches; returns its last epoch's logs."""

    def epochs_of_batches():
        for _ in range(epochs):
            yield from global_batches(x, y)

    steps = Sharding(len(x), SHARDS, BATCH).num_steps
    return model.fit(epochs_of_batches(), steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=0).history


def test_training_equals_plain_keras_fit_on_the_same_global_batches(alone):
    x, y = regression_rows(ROWS)
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((3,)), dense(16, "relu"), dense(8, "relu"), dense(1)])
    model.compile(keras.optimizers.Adam(), loss="mae", metrics=["mse"])
    expected = fit_plainly(model, x, y)
    for ours, theirs in zip(weights(alone), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for name in ("loss", "mse"):
        np.testing.assert_allclose(history(alone)[name], expected[name], rtol=1e-5)


def test_validation_equals_keras_evaluate(alone):
    x, y = regression_rows(307, seed=1)
    loss, mse = keras.saving.load_model(alone / "model.keras").evaluate(x, y, batch_size=64, verbose=0)
    np.testing.assert_allclose(history(alone)["val_loss"][-1], loss, rtol=1e-5)
    np.testing.assert_allclose(history(alone)["val_mse"][-1], mse, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3, 4])  # 2, and models of one's own: tests/distributed/test_backends.py
def test_the_world_size_does_not_change_the_losses(launched, alone, processes):
    run = launched(processes, 0)
    for name in ("loss", "mse", "val_loss", "val_mse"):
        np.testing.assert_allclose(history(run)[name], history(alone)[name], rtol=1e-5)
    for ours, theirs in zip(weights(run), weights(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [3])
def test_weights_are_equal_to_the_bit_on_every_rank_and_from_run_to_run(place, launched, processes):
    of_runs = []
    for number in range(2):
        run = launched(processes, number)
        ranks = [place / f"{run.name}-rank{rank}.keras" for rank in range(processes)]
        for of_rank in (keras.saving.load_model(path).get_weights() for path in ranks):
            for ours, theirs in zip(of_rank, weights(run), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        of_runs.append(weights(run))
    for first, second in zip(*of_runs, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_the_same_command_gives_the_same_bits_alone(place, alone):
    again = trained(place, "again", *options("--validation-data", "validation.csv"))
    for ours, theirs in zip(weights(again), weights(alone), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 7])
def test_the_length_of_a_superstep_changes_nothing(place, alone, steps):
    run = trained(place, f"steps{steps}", *options("--steps-per-execution", steps))
    np.testing.assert_allclose(history(run)["loss"], history(alone)["loss"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("function", "processes"), [("compiled", None), ("summed", None), ("summed", 3)])
def test_ones_own_compiled_model_trains_as_under_plain_keras(place, function, processes):
    scope = {}
    exec(OWN_MODELS, scope)
    keras.utils.set_random_seed(0)
    model = scope[function]() if function == "compiled" else scope[function](3, 1)
    expected = fit_plainly(model, *regression_rows(ROWS))
    name = f"own-{function}-{processes}"
    run = trained(place, name, *options("--model", f"own_models:{function}"), processes=processes)
    np.testing.assert_allclose(history(run)["loss"], expected["loss"], rtol=1e-5)
    for ours, theirs in zip(weights(run), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_million_noisy_rows_reach_the_loss_that_plain_keras_reaches(tmp_path):
    """Both end near the noise's mean absolute deviation, 0.1 * sqrt(2 / pi) = 0.0798; no model gets below."""
    assert disttrain(tmp_path, "make-data", "noisy.csv", "--rows", "1e6", "--noise", "0.1").returncode == 0
    run = trained(tmp_path, "noisy", "--data", "noisy.csv", "--epochs", 2)
    table = np.loadtxt(tmp_path / "noisy.csv", delimiter=",", skiprows=1, dtype=np.float32)
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((1,)), dense(16, "relu"), dense(8, "relu"), dense(1)])
    model.compile(keras.optimizers.Adam(), loss="mae", jit_compile=True, steps_per_execution=100)
    expected = model.fit(table[:, :1], table[:, 1:], batch_size=250, epochs=2, shuffle=False, verbose=0).history
    assert history(run)["loss"][-1] == pytest.approx(expected["loss"][-1], rel=1e-3)
    assert history(run)["loss"][-1] == pytest.approx(0.0798, rel=0.03)


@pytest.mark.slow
def test_a_worker_killed_ends_the_run_within_30_seconds(place):
    arguments = ("--data", "data.csv", "--batch-size", 1, "--epochs", 100_000, "--output", "killed")
    launcher = subprocess.Popen(
        command_line(*arguments, processes=3), cwd=place, env=environment(place), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        for line in launcher.stdout:
            if "epoch 1/" in line:
                break
        processes = [psutil.Process(pid) for pid in workers(launcher.pid)]
        assert len(processes) == 3
        begun = time.monotonic()
        processes[1].kill()
        rest = launcher.communicate(timeout=60)[0]
        assert launcher.returncode != 0
        left = psutil.wait_procs(processes, timeout=10)[1]  # what was killed takes a moment to be gone
        assert (left, time.monotonic() - begun < 30) == ([], True), rest
        assert not (place / "killed" / "model.keras").exists()
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)


def workers(launcher: int) -> list[int]:
    """Process ids of a launcher's running workers, in the order of ranks."""
    found = []
    for process in psutil.Process(launcher).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[1:3] == ["-m", "disttrain"]:
                found.append((int(process.environ()["HOROVOD_RANK"]), process.pid))
    return [pid for _, pid in sorted(found)]
