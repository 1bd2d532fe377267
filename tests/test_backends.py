"""Every backend keeps the same contract: the same losses, every row once, to the bit after a stop, errors that name."""

import json
import os
import signal
import socket

import keras
import numpy as np
import pytest
from command import disttrain, history, regression_rows, weights, write_csv
from faults import STOPPED, Run, assert_same_end, checkpoints, row_counts, run, write_data

from disttrain.config import TrainConfig
from disttrain.model import build_model

SHARDS, EPOCHS = 4, 2
TRAIN = (
    "--data", "data.csv", "--validation-data", "validation.csv", "--batch-size", 50, "--epochs", EPOCHS,
    "--shuffle", "global",
)  # fmt: skip
MIRRORED_2, MIRRORED_3 = ("--backend", "mirrored", "--devices", 2), ("--backend", "mirrored", "--devices", 3)
PEER_LOST = 6

OWN_MODELS = """
import keras

def clipped(num_features):
    "What acts on the gradient of the global batch, and what is added to the loss."
    dense = keras.layers.Dense
    layers = [dense(8, "tanh", kernel_regularizer=keras.regularizers.L2(0.01)), dense(1)]
    model = keras.Sequential([keras.Input((num_features,)), *layers])
    optimizer = keras.optimizers.AdamW(0.01, global_clipnorm=0.1, weight_decay=0.1, use_ema=True)
    model.compile(optimizer, loss="mse", metrics=["mae", keras.metrics.RootMeanSquaredError()])
    return model

def summed(num_features):
    model = keras.Sequential([keras.Input((num_features,)), keras.layers.Dense(1, kernel_regularizer="l2")])
    model.compile(keras.optimizers.SGD(1e-9), loss=keras.losses.MeanSquaredError(reduction="sum"))
    return model

def accumulating(num_features):
    model = keras.Sequential([keras.Input((num_features,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), loss="mse")
    return model
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("backends")
    write_data(directory)
    (directory / "own_models.py").write_text(OWN_MODELS)
    x, y = regression_rows(1200)
    y[730] = np.nan  # line 732; of two shards in the second, of 50 rows a step in its third
    write_csv(directory / "nan.csv", x, y)
    return directory


def cluster(size):
    """TF_CONFIG for each of `size` workers on this machine."""
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(size)]
    hosts = [f"127.0.0.1:{server.getsockname()[1]}" for server in with_ports]
    for server in with_ports:
        server.close()
    return [
        json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}) for index in range(size)
    ]


def is_listening(host, port):
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def started(place, *arguments, size=2):
    """The workers of a cluster, as they start."""
    return [Run(place, *arguments, TF_CONFIG=config) for config in cluster(size)]


def multiworker(place, *arguments, code=0, size=2):
    """What the first worker said of a whole run; all must end with the same exit code."""
    workers = started(place, *arguments, size=size)
    told = [worker.finish(code) for worker in workers]
    return told[0]


def trained_by(place, backend, *arguments):
    if backend == "multiworker":
        return multiworker(place, *arguments)
    return run(place, *arguments, *{"mirrored 2": MIRRORED_2, "mirrored 3": MIRRORED_3, "local": ()}[backend])


CASES = {
    # clipping, averaging and decay act on the gradient of the global batch; regularization is added to the loss
    "clipped": "own_models:clipped",
    # a loss that adds rows up, where regularization counts once
    "summed": "own_models:summed",
    # weights that count how often each row came
    "weighed": "counting:weighed",
}


@pytest.fixture(scope="module")
def alone(place):
    """Each case's run on one device, made once."""
    made = {}

    def of(case):
        if case not in made:
            made[case] = place / f"{case}-alone"
            run(place, *TRAIN, "--model", CASES[case], "--num-shards", SHARDS, "--output", made[case])
        return made[case]

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("case", "backend"), [
    ("clipped", "mirrored 3"), ("clipped", "multiworker"), ("summed", "mirrored 3"), ("weighed", "mirrored 2"),
    ("weighed", "multiworker"),
])  # fmt: skip
def test_losses_metrics_and_weights_are_those_of_one_device(place, alone, case, backend):
    output = f"{case}-{backend.replace(' ', '')}"
    trained_by(place, backend, *TRAIN, "--model", CASES[case], "--num-shards", SHARDS, "--output", output)
    expected, found = history(alone(case)), history(place / output)
    assert set(expected) == set(found)
    for column in set(expected) - {"seconds", "rows_per_s"}:
        np.testing.assert_allclose(found[column], expected[column], rtol=2e-5, err_msg=column)
    for ours, theirs in zip(weights(place / output), weights(alone(case)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    if case == "weighed":
        assert (row_counts(place / output) == EPOCHS).all()


STATEFUL = (*TRAIN, "--num-shards", 4, "--batch-size", 10, "--steps-per-execution", 8, "--checkpoint-every", 3)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mirrored 3", "multiworker"])
def test_a_run_that_was_stopped_ends_as_one_that_never_was_to_the_bit(place, backend):
    """With statistics, dropout and counts of each replica's own; of a cluster, one worker alone is told to stop."""
    options = (*STATEFUL, "--model", "counting:random_parts", "--callbacks", "counting:slow")
    whole, stopped = (f"{kind}-{backend.replace(' ', '')}" for kind in ("whole", "stopped"))
    trained_by(place, backend, *options, "--output", whole)
    if backend == "multiworker":
        workers = started(place, *options, "--output", stopped)
    else:
        workers = [Run(place, *options, *MIRRORED_3, "--output", stopped)]
    workers[0].wait_for("(trains)", 3)
    workers[-1].process.send_signal(signal.SIGTERM)
    told = [worker.finish(STOPPED) for worker in workers]
    assert "disttrain: " in told[0]
    assert "stopped in epoch 1, after step " in told[0]
    assert "Going on from the checkpoint of epoch 1" in trained_by(place, backend, *options, "--output", stopped)
    assert_same_end(place / stopped, place / whole)


@pytest.mark.slow
def test_a_run_moves_from_one_backend_to_another(place):
    """Three shards: alone, on two devices, on three, on two workers of a cluster, on two of Horovod's."""
    options = (*TRAIN, "--batch-size", 10, "--steps-per-execution", 9, "--model", "counting:weighed")
    moves = (("local", ("--num-shards", 3)), ("mirrored 2", ()), ("mirrored 3", ()), ("multiworker", ()))
    for epochs, (backend, more) in enumerate(moves, start=1):
        trained_by(place, backend, *options, *more, "--epochs", epochs, "--output", "moved")
    run(place, *options, "--epochs", 5, "--output", "moved", processes=2)
    run(place, *options, "--epochs", 5, "--num-shards", 3, "--output", "stayed")
    assert (row_counts(place / "moved") == 5).all()
    for column in ("loss", "val_loss"):
        np.testing.assert_allclose(history(place / "moved")[column], history(place / "stayed")[column], rtol=1e-5)


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_named_or_left_out_on_all_replicas(place):
    nan = ("--data", "nan.csv", "--batch-size", 50, "--num-shards", 2, "--epochs", 1, "--loss", "mse")
    said = run(place, *nan, *MIRRORED_2, "--output", "nan", code=5)
    assert "epoch 1, step 3: the loss became nan, before the update" in said
    assert "line 732 holds nan in column 'y0'" in said
    run(place, *nan, *MIRRORED_2, "--on-nonfinite", "skip", "--output", "skipped")
    run(place, *nan, "--on-nonfinite", "skip", "--output", "skipped-alone")
    assert history(place / "skipped")["skipped_steps"] == [1]
    for ours, theirs in zip(weights(place / "skipped"), weights(place / "skipped-alone"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_bad_line_is_told_by_the_worker_that_read_it_and_all_end(place):
    lines = (place / "data.csv").read_text().splitlines()
    (place / "bad.csv").write_text("\n".join([*lines[:1500], "1,2", *lines[1501:]]) + "\n")
    workers = started(place, "--data", "bad.csv", "--batch-size", 50, "--output", "bad", "--num-shards", 2)
    told = [worker.process.wait(120) for worker in workers], [worker.text() for worker in workers]
    assert "rank 1: bad.csv, line 1501: the row has 2 fields, expected 5" in told[1][1]
    assert told[0][1] == 3
    assert told[0][0] != 0


@pytest.mark.parametrize(("index", "words"), [(0, "within 1 s nobody came from "), (1, "after 1 s the first worker, ")])
def test_a_worker_whose_others_do_not_come_says_who(place, index, words):
    done = disttrain(place, "--data", "data.csv", "--timeout", 1, "--output", "lonely", TF_CONFIG=cluster(2)[index])
    assert done.returncode == 7
    assert f"disttrain: rank {index}: TF_CONFIG: {words}127.0.0.1:" in done.stderr


def test_a_worker_that_waits_for_others_can_be_interrupted(place):
    config = cluster(2)[0]
    waiting = Run(place, "--data", "data.csv", "--output", "waiting", TF_CONFIG=config)
    host, port = json.loads(config)["cluster"]["worker"][0].split(":")
    waiting.wait_until(lambda: is_listening(host, int(port)), "listening")
    waiting.process.send_signal(signal.SIGINT)
    assert "disttrain: interrupted" in waiting.finish(130)


@pytest.mark.slow
def test_a_worker_of_a_cluster_that_is_killed_ends_the_others(place):
    workers = started(place, *TRAIN, "--epochs", 100_000, "--output", "killed")
    workers[0].wait_for("epoch 2/100000")
    os.kill(workers[1].process.pid, signal.SIGKILL)
    said = workers[0].finish(PEER_LOST)
    assert "disttrain: rank 0: " in said
    assert checkpoints(place / "killed" / "checkpoints")
    workers[1].process.wait(10)


LEARNING = ("--data", "data.csv", "--features", "x1,x2,x3", "--batch-size", 20, "--learning-rate", 0.01, "--epochs", 3)


@pytest.fixture(scope="module")
def learned(place):
    """The losses of two shards on one device, in float32 throughout."""
    run(place, *LEARNING, "--num-shards", 2, "--output", "float32")
    return history(place / "float32")["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "devices"), [("mixed_bfloat16", ()), ("mixed_float16", MIRRORED_2)])
def test_mixed_precision_learns_as_much(place, learned, precision, devices):
    """16-bit numbers hold three digits, or two; the second epoch's loss is half the first one's."""
    run(place, *LEARNING, *devices, "--num-shards", 2, "--precision", precision, "--output", precision)
    np.testing.assert_allclose(history(place / precision)["loss"], learned, rtol=0.05)
    assert history(place / precision)["loss"] != learned
    saved = keras.saving.load_model(place / precision / "model.keras")
    assert {layer.dtype_policy.name for layer in saved.layers} == {precision, "float32"}
    assert {variable.dtype for variable in saved.variables} == {"float32"}


@pytest.mark.slow
def test_gradients_sent_as_16_bit_floats_lead_to_nearly_the_same_loss(place, learned):
    run(place, *LEARNING, "--compression", "fp16", "--output", "fp16", processes=2)
    differences = np.abs(np.divide(history(place / "fp16")["loss"], learned) - 1)
    assert 1e-5 < differences.max() < 0.05  # without compression they agree to 1e-6


def test_a_scaled_learning_rate_is_reached_step_by_step():
    """Twice that of one shard for two shards; half an epoch of 20 steps is warm-up."""

    def optimizer(**options):
        config = TrainConfig(learning_rate=0.001, scale_lr=True, **options)
        return build_model(config, 3, 1, num_shards=2, steps_per_epoch=20).optimizer

    assert float(optimizer().learning_rate) == pytest.approx(0.002)
    schedule = optimizer(warmup_epochs=0.5)._learning_rate
    rates = [float(schedule(step)) for step in (0, 5, 10, 1000)]
    np.testing.assert_allclose(rates, [0.001, 0.0015, 0.002, 0.002], rtol=1e-6)


REFUSED = {
    "local SGD needs Horovod": ((*MIRRORED_2, "--sync-every", 4), {}, "--sync-every 4 is not possible"),
    "so does compression": ((*MIRRORED_2, "--compression", "fp16"), {}, "--compression fp16 is not possible"),
    "accumulating gradients": (
        (*MIRRORED_2, "--model", "own_models:accumulating"), {}, "gradient_accumulation_steps is not possible"
    ),
    "fewer shards than devices": ((*MIRRORED_3, "--num-shards", 2), {}, "leaves some of the 3 devices without a shard"),
    "no cluster": (("--backend", "multiworker"), {}, "--backend multiworker needs TF_CONFIG"),
    "one worker's backend in a cluster": (
        ("--backend", "local"), {"TF_CONFIG": cluster(2)[1]}, "a cluster in TF_CONFIG would train the same model"
    ),
    "several devices for local": (("--backend", "local", "--devices", 2), {}, "--devices 2: this backend gives each"),
    "warm-up to nothing": (("--warmup-epochs", 1), {}, "add --scale-lr"),
    "compressed weights": (("--compression", "fp16", "--sync-every", 2), {}, "weights are sent"),
    "a schedule for a compiled model": (
        ("--model", "own_models:clipped", "--scale-lr"), {}, "returns a compiled model; leave out --scale-lr"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_a_usage_error(place, name):
    arguments, environ, words = REFUSED[name]
    done = disttrain(place, "--data", "data.csv", *arguments, "--output", "refused", **environ)
    assert done.returncode == 2, done.stderr
    said = " ".join(done.complaints)
    assert words in said, done.stderr
