"""`disttrain` under an elastic horovodrun: workers may join or leave, but it trains as one undisturbed worker does."""

import json
import re
import signal
import sys
import time

import numpy as np
import pytest
from command import history
from elastic_run import HOSTS, PATIENCE_S, ElasticRun
from faults import row_counts, run, write_data

EPOCHS = 6
OPTIONS = (
    "--data", "data.csv", "--validation-data", "validation.csv", "--batch-size", 5, "--num-shards", 4,
    "--model", "counting:weighed", "--callbacks", "pacing:callbacks", "--steps-per-execution", 4, "--epochs", EPOCHS,
)  # fmt: skip
TRAIN = [sys.executable, "-m", "disttrain"]
PACING = """
import os, threading, time
from pathlib import Path
import keras
from disttrain.activity import activity

class Pace(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(float(Path("pace").read_text()))
        while Path(f"hang-{os.getpid()}").exists():
            time.sleep(0.1)
        if Path(f"wait-{os.getpid()}").exists():
            Path(f"wait-{os.getpid()}").unlink()
            with activity("waiting in a collective that was forgotten", waits_for_peers=True):
                threading.Event().wait()

def callbacks():
    return [Pace(), keras.callbacks.ModelCheckpoint("best.keras", monitor="loss", save_best_only=True)]
"""
SLOW_S = 1  # two and a half minutes for the run, so that it does not end before a test has disturbed it
TIMEOUT_S = 16
PATIENCE_AFTER_S = 60  # Gloo may take 10 s to notice; then all meet and compile again, on a slow machine


def set_pace(place, seconds):
    """Sets how long each superbatch takes, also for runs that are already going."""
    new = place / "pace.new"
    new.write_text(str(seconds))
    new.replace(place / "pace")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("elastic")
    write_data(directory)
    (directory / "pacing.py").write_text(PACING)
    set_pace(directory, 0)
    run(directory, *OPTIONS, "--output", "alone")
    return directory


@pytest.fixture
def start(place):
    runs = []

    def begin(hosts, *options, pace_s=SLOW_S) -> ElasticRun:
        set_pace(place, pace_s)
        command = [*TRAIN, *map(str, (*OPTIONS, *options))]
        runs.append(ElasticRun(place, hosts, "--min-np", "1", "--max-np", "3", command=command))
        return runs[-1]

    yield begin
    for elastic in runs:
        elastic.close()


def assert_trained_as_alone(place, output):
    """Asserts that every epoch used every row once, and has the results that it has on one worker."""
    assert (row_counts(place / output) == EPOCHS).all()
    ours, theirs = history(place / output), history(place / "alone")
    assert ours["epoch"] == list(range(1, EPOCHS + 1))
    assert ours["rows"] == theirs["rows"]
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)


def changes(place, output):
    lines = (place / output / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record.get("event") == "world"]


@pytest.mark.slow
def test_the_leader_is_lost_a_worker_joins_and_another_one_is_preempted(start, place):
    elastic = start(HOSTS[:3], "--output", "changed")
    elastic.wait_for("epoch 1/6 .* step")
    elastic.signal(0, signal.SIGKILL)
    elastic.wait_for(r"Lost a worker: going on from epoch \d, step \d+ with 2 workers instead of 3, after \d+\.\d s")
    elastic.set_hosts(HOSTS[:4])
    elastic.wait_for(r"A worker joined: going on from epoch \d, step \d+ with 3 workers instead of 2, after")
    elastic.signal(1, signal.SIGTERM)
    elastic.wait_for(r"A worker left: going on from epoch \d, step \d+ with 2 workers instead of 3, after")
    set_pace(place, 0)
    told = elastic.finish()
    assert "Process 1 exit with status code 75" in told
    assert "Traceback" not in told
    assert "starts over" not in told  # what the leader's ModelCheckpoint knew, the next leader's knows
    assert_trained_as_alone(place, "changed")
    assert [record["workers"] for record in changes(place, "changed")] == [2, 3, 2]


@pytest.mark.slow
def test_a_stopped_worker_and_a_stalled_leader_are_left_behind_and_one_without_a_shard_takes_part(start, place):
    elastic = start(HOSTS[:3], "--num-shards", 2, "--batch-size", 10, "--timeout", TIMEOUT_S, "--output", "hung")
    elastic.wait_for("1 workers have no shard: there are 2")
    elastic.wait_for("epoch 1/6 .* step")
    elastic.signal(1, signal.SIGSTOP)
    assert (
        elastic.wait_for("Lost a worker: going on from .* with 2 workers instead of 3") < TIMEOUT_S + PATIENCE_AFTER_S
    )
    (place / f"hang-{elastic.workers()[0]}").touch()
    assert elastic.wait_for("Lost a worker: going on from .* with 1 worker instead of 2") < TIMEOUT_S + PATIENCE_AFTER_S
    set_pace(place, 0)
    told = elastic.finish()
    going_on = "; the run goes on from its last commit"
    assert re.search(rf"rank \d .*has not been heard of for \d+ s; .*{going_on}", told)
    assert re.search(rf"rank 0 .*made no progress for \d+ s while .*{going_on}", told)
    assert "Process 0 exit with status code 7" in told
    assert "Traceback" not in told
    assert [record["workers"] for record in changes(place, "hung")] == [2, 1]
    assert (row_counts(place / "hung") == EPOCHS).all()
    assert history(place / "hung")["epoch"] == list(range(1, EPOCHS + 1))


@pytest.mark.slow
def test_one_that_a_lost_worker_leaves_in_a_collective_for_ever_starts_over_and_takes_part(start, place):
    """Simulates a collective that Horovod forgets as its thread ends: cutting connections does not end it."""
    elastic = start(HOSTS[:3], "--output", "forgotten")
    elastic.wait_for("epoch 1/6 .* step")
    before = elastic.workers()
    waits = place / f"wait-{before[1]}"
    waits.touch()
    while waits.exists():
        time.sleep(0.1)
    elastic.signal(2, signal.SIGKILL)
    elastic.wait_for("Lost a worker: going on from .* with 2 workers instead of 3")
    assert elastic.workers()[1] == before[1]  # the same process, so that horovodrun saw no death
    set_pace(place, 0)
    told = elastic.finish()
    assert "absl" not in told  # TensorFlow's messages are held back in its second start too
    assert_trained_as_alone(place, "forgotten")


@pytest.mark.slow
def test_a_leader_lost_before_anything_was_kept_and_a_signal_to_the_launcher(start, place):
    elastic = start(HOSTS[:2], "--output", "early")
    elastic.wait_for("2 workers, 4 x 5 rows a step")
    elastic.signal(0, signal.SIGKILL)
    elastic.wait_for("Lost a worker: going on from the beginning with 1 worker instead of 2")
    elastic.wait_for("epoch 1/6 .* step")
    elastic.process.send_signal(signal.SIGTERM)
    assert elastic.process.wait(PATIENCE_S) == 75
    assert re.search(r"stopped in epoch \d, after step \d+; to go on: the same command again", elastic.text())
    set_pace(place, 0)
    run(place, *OPTIONS, "--output", "early")
    assert_trained_as_alone(place, "early")


@pytest.mark.slow
def test_what_all_would_fail_of_ends_all(start, place):
    lines = (place / "data.csv").read_text().splitlines()
    lines[1900] = lines[1900].replace(",", ",x", 1)
    (place / "bad.csv").write_text("\n".join(lines) + "\n")
    elastic = start(HOSTS[:3], "--data", "bad.csv", "--output", "bad", pace_s=0)
    assert elastic.process.wait(PATIENCE_S) != 0
    told = elastic.text()
    assert len(re.findall(r"disttrain: .*bad.csv, line 1901", told)) == 1
    assert "going on" not in told
    assert re.findall("Process . exit with status code (.*).\n", told) == ["3"] * 3
