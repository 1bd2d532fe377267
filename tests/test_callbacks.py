"""Keras callbacks on the command line: they see every epoch, decide alike on every rank, and write once."""

import csv
import json

import numpy as np
import pytest
from command import disttrain, history, regression_rows, trained, write_csv

OWN_CALLBACKS = """
import json, os
import keras

class Diary(keras.callbacks.Callback):
    "Writes down, on every rank, what it is told."
    def __init__(self, rank):
        super().__init__()
        self.rank, self.lines = rank, []
    def note(self, *words):
        self.lines.append(words)
    def on_train_begin(self, logs=None): self.note("train begins", self.params["epochs"], self.params["steps"])
    def on_epoch_begin(self, epoch, logs=None): self.note("epoch begins", epoch)
    def on_train_batch_begin(self, batch, logs=None): self.note("batch begins", batch)
    def on_train_batch_end(self, batch, logs=None): self.note("batch ends", batch, logs["loss"])
    def on_test_end(self, logs=None): self.note("test ends", logs["loss"])
    def on_epoch_end(self, epoch, logs=None): self.note("epoch ends", epoch, logs)
    def on_train_end(self, logs=None):
        self.note("train ends")
        with open(f"diary{self.rank}.json", "w") as stream:
            json.dump(self.lines, stream)

def diary(rank):
    return [Diary(rank)]

def stop_early():
    return [keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, min_delta=100.0)]

def slow_down():
    return [keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.1, patience=0, min_delta=100.0, min_lr=0.0)]

def write():
    return [keras.callbacks.ModelCheckpoint("kept-{epoch}.keras"), keras.callbacks.CSVLogger("log.csv", append=True)]

def draw():
    return [keras.callbacks.TensorBoard("board", update_freq="epoch")]

def wrong():
    return "EarlyStopping"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("callbacks")
    write_csv(directory / "data.csv", *regression_rows(1030))
    write_csv(directory / "validation.csv", *regression_rows(200, seed=1))
    (directory / "own_callbacks.py").write_text(OWN_CALLBACKS)
    return directory


def run(place, name, function, *more, processes=None):
    arguments = ("--data", "data.csv", "--validation-data", "validation.csv", "--batch-size", 50, "--epochs", 3)
    callbacks = ("--callbacks", f"own_callbacks:{function}")
    return trained(place, name, *arguments, *callbacks, *more, processes=processes)


def test_callbacks_are_told_of_every_epoch_and_superstep(place):
    record = run(place, "diary", "diary", "--steps-per-execution", 8)
    lines = json.loads((place / "diary0.json").read_text())
    assert lines[0] == ["train begins", 3, 21]
    assert [line[0] for line in lines[1:10]] == ["epoch begins"] + 4 * ["batch begins", "batch ends"]
    ends = [line[1] for line in lines if line[0] == "batch ends"]
    assert ends[:4] == [7, 15, 19, 20]  # full steps 8, 8 and 4, and a short one
    losses = [line[2]["loss"] for line in lines if line[0] == "epoch ends"]
    np.testing.assert_allclose(losses, history(record)["loss"])
    assert lines[-1] == ["train ends"]


def test_early_stopping_ends_the_run(place):
    assert len(history(run(place, "early", "stop_early"))["epoch"]) == 2


@pytest.mark.slow
def test_every_rank_is_told_the_same_and_stops_alike(place):
    run(place, "diaries", "diary", processes=2)
    first, second = (json.loads((place / f"diary{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert len(history(run(place, "early2", "stop_early", processes=2))["epoch"]) == 2


@pytest.mark.slow
def test_a_callback_changes_the_learning_rate_of_compiled_steps(place):
    slowed, plain = run(place, "slowed", "slow_down", processes=2), run(place, "plain", "diary", processes=2)
    assert history(slowed)["loss"][:2] == history(plain)["loss"][:2]
    assert history(slowed)["loss"][2] != history(plain)["loss"][2]


@pytest.mark.slow
def test_what_writes_files_runs_on_the_leader_alone(place):
    run(place, "written", "write", processes=2)
    assert sorted(path.name for path in place.glob("kept-*")) == ["kept-1.keras", "kept-2.keras", "kept-3.keras"]
    with (place / "log.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["0", "1", "2"]


def test_tensorboard_writes_its_events(place):
    run(place, "drawn", "draw")
    assert list(place.glob("board/train/events.*"))


def test_what_is_no_list_of_callbacks_is_a_usage_error(place):
    done = disttrain(place, "--data", "data.csv", "--callbacks", "own_callbacks:wrong")
    assert done.returncode == 2
    assert "expected a list of keras.callbacks.Callback" in done.complaints[0]
