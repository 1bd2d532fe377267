"""Every backend keeps the same contract: same losses, every row once, exact resumption, errors that name the fault."""

import json
import os
import random
import signal
import socket
from itertools import product

import numpy as np
import pytest
from command import disttrain, history, regression_rows, weights, write_csv
from faults import STOPPED, Run, assert_same_end, checkpoints, row_counts, run, write_data

from disttrain.distributed.multiworker import communication

SHARDS, EPOCHS = 4, 2
TRAIN = (
    "--data", "data.csv", "--validation-data", "validation.csv", "--batch-size", 50, "--epochs", EPOCHS,
    "--shuffle", "global",
)  # fmt: skip
MIRRORED_2, MIRRORED_3 = ("--backend", "mirrored", "--devices", 2), ("--backend", "mirrored", "--devices", 3)
BACKENDS = ("local", "mirrored", "multiworker", "horovod")
PEER_LOST = 6
HOROVODRUN_FAILED = 1  # whatever its workers' exit codes are

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
    y[730] = np.nan  # line 732: in the third of four shards, in its third step of 50 rows
    write_csv(directory / "nan.csv", x, y)
    lines = (directory / "data.csv").read_text().splitlines()
    (directory / "bad.csv").write_text("\n".join([*lines[:1500], "1,2", *lines[1501:]]) + "\n")
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


OPTIONS = {"local": ("--backend", "local"), "mirrored": MIRRORED_3}


def started(place, backend, *arguments, **environ):
    """Starts a run and returns its processes: one, the two workers of a cluster, or a horovodrun with two workers."""
    if backend == "multiworker":
        return [Run(place, *arguments, TF_CONFIG=config, **environ) for config in cluster(2)]
    if backend == "horovod":
        return [Run(place, *arguments, processes=2, **environ)]
    return [Run(place, *arguments, *OPTIONS[backend], **environ)]


def trained_by(place, backend, *arguments):
    """Trains to the end and returns the leader's output."""
    told = [process.finish() for process in started(place, backend, *arguments)]
    return told[0]


def stopped_by(place, backend, *arguments):
    """Stops a run in its first epoch by a signal to the last worker only, and returns the leader's output."""
    processes = started(place, backend, *arguments, HOLD_AT="trains 1")
    for process in processes:
        process.wait_for("held)", 2 if backend == "horovod" else 1)
    last = processes[-1]
    os.kill(last.workers()[1] if backend == "horovod" else last.process.pid, signal.SIGTERM)
    last.release()
    code = HOROVODRUN_FAILED if backend == "horovod" else STOPPED
    told = [process.finish(code) for process in processes]
    return told[0]


def failed_by(place, backend, code, *arguments):
    """Returns the only error line of a run that fails; with several workers, it is printed by the rank at fault."""
    processes = started(place, backend, *arguments)
    told = "".join([process.finish(*range(1, 256)) for process in processes])
    assert backend == "horovod" or processes[-1].process.returncode == code, told
    (said,) = [line for line in told.splitlines() if "disttrain: " in line and " line" in line]
    assert ("disttrain: rank 1: " in said) == (backend in ("multiworker", "horovod"))
    return said


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
@pytest.mark.parametrize(
    ("case", "backend"),
    [
        *product(("clipped", "weighed"), ("mirrored", "multiworker", "horovod")),
        ("summed", "mirrored"),
    ],
)
def test_losses_metrics_and_weights_are_those_of_one_device(place, alone, case, backend):
    output = f"{case}-{backend}"
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
def test_a_run_that_was_stopped_ends_as_one_that_never_was_to_the_bit(place):
    """Each replica has its own statistics, dropout and counts."""
    backend = random.choice(["mirrored", "multiworker"])  # drawn anew each time; the others: tests/run/test_resume.py
    print(backend)
    options = (*STATEFUL, "--model", "counting:random_parts", "--callbacks", "counting:slow")
    whole, stopped = (f"{kind}-{backend}" for kind in ("whole", "stopped"))
    trained_by(place, backend, *options, "--output", whole)
    told = stopped_by(place, backend, *options, "--output", stopped)
    assert "disttrain: " in told
    assert "stopped in epoch 1, after step " in told
    assert "Going on from the checkpoint of epoch 1" in trained_by(place, backend, *options, "--output", stopped)
    assert_same_end(place / stopped, place / whole)


@pytest.mark.slow
def test_a_run_stopped_under_each_backend_goes_on_under_the_next_one(place, alone):
    """All stops are in the first epoch, of eleven steps; each backend takes one or two of them."""
    options = (*TRAIN, "--model", CASES["weighed"], "--num-shards", SHARDS, "--output", "moved")
    options += ("--steps-per-execution", 1, "--callbacks", "counting:slow")
    for backend in BACKENDS:
        assert "stopped in epoch 1, after step " in stopped_by(place, backend, *options)
    assert "Going on from the checkpoint of epoch 1, step " in trained_by(place, "local", *options)
    assert (row_counts(place / "moved") == EPOCHS).all()
    for column in ("loss", "val_loss"):
        np.testing.assert_allclose(history(place / "moved")[column], history(alone("weighed"))[column], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_that_is_not_finite_is_named_before_its_update(place, backend):
    nan = ("--data", "nan.csv", "--batch-size", 50, "--num-shards", SHARDS, "--loss", "mse")
    said = failed_by(place, backend, 5, *nan, "--output", f"nan-{backend}")
    first_line = 102 if backend in OPTIONS else 702  # the worker's first line in the step: of all shards, or half
    assert (
        f"epoch 1, step 3: the loss became nan, before the update; the batch is of nan.csv, lines {first_line}" in said
    )
    assert " to 1051; line 732 holds nan in column 'y0'" in said


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bad_line_is_named_and_all_workers_end(place, backend):
    """By the worker whose row it is: with a model of one's own, no look at the file comes before the training."""
    bad = ("--data", "bad.csv", "--batch-size", 50, "--num-shards", SHARDS, "--output", f"bad-{backend}")
    bad += ("--model", "own_models:clipped")
    assert "bad.csv, line 1501: the row has 2 fields, expected 5" in failed_by(place, backend, 3, *bad)
    assert not (place / f"bad-{backend}").exists()


@pytest.mark.slow
def test_a_step_that_is_left_out_is_so_on_all_replicas(place):
    nan = ("--data", "nan.csv", "--batch-size", 50, "--num-shards", 2, "--epochs", 1, "--loss", "mse")
    run(place, *nan, *MIRRORED_2, "--on-nonfinite", "skip", "--output", "skipped")
    run(place, *nan, "--on-nonfinite", "skip", "--output", "skipped-alone")
    assert history(place / "skipped")["skipped_steps"] == [1]
    for ours, theirs in zip(weights(place / "skipped"), weights(place / "skipped-alone"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "words"), [(0, "within 1 s no worker connected from "), (1, "after 1 s the leader, ")]
)
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
    workers = started(place, "multiworker", *TRAIN, "--epochs", 100_000, "--output", "killed")
    workers[0].wait_for("epoch 2/100000")
    os.kill(workers[1].process.pid, signal.SIGKILL)
    said = workers[0].finish(PEER_LOST)
    assert "disttrain: rank 0: " in said
    assert checkpoints(place / "killed" / "checkpoints")
    workers[1].process.wait(10)


@pytest.mark.parametrize(("num_gpus", "implementation"), [(0, "AUTO"), (2, "NCCL")])
def test_a_cluster_of_gpus_asks_for_nccl(num_gpus, implementation):
    assert communication(num_gpus).implementation.name == implementation


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


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_a_usage_error(place, name):
    arguments, environ, words = REFUSED[name]
    done = disttrain(place, "--data", "data.csv", *arguments, "--output", "refused", **environ)
    assert done.returncode == 2, done.stderr
    said = " ".join(done.complaints)
    assert words in said, done.stderr
