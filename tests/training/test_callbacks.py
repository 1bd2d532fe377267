"""Keras callbacks on the command line: they see every epoch, decide alike on every rank, and write once."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from command import disttrain, history, regression_rows, trained, write_csv

from disttrain.distributed.backend import World
from disttrain.errors import UsageError
from disttrain.training.callbacks import build_callbacks

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
        self.note("train ends", [weights.tolist() for weights in self.model.get_weights()])
        with open(f"diary{self.rank}.json", "w") as stream:
            json.dump(self.lines, stream)

class Nudge(keras.callbacks.Callback):
    "Moves the weights before the training, as a callback that loads a file does; on the leader alone."
    def __init__(self, rank):
        super().__init__()
        self.rank = rank
    def on_train_begin(self, logs=None):
        if self.rank == 0:
            self.model.set_weights([weights + 0.1 for weights in self.model.get_weights()])

class Impatient(keras.callbacks.Callback):
    "Wants no more after the first superbatch, on one rank alone."
    def __init__(self, rank):
        super().__init__()
        self.rank = rank
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = self.rank == 1

def diary(rank):
    return [Nudge(rank), Diary(rank)]

def stop_alone(rank):
    return [Impatient(rank)]

def stop_early():
    return [keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, min_delta=100.0)]

def slow_down_and_write(rank):
    slower = keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.1, patience=0, min_delta=100.0, min_lr=0.0)
    files = [keras.callbacks.ModelCheckpoint("kept-{epoch}.keras"), keras.callbacks.CSVLogger("log.csv", append=True)]
    return [Nudge(rank), slower, *files]

def draw():
    return [keras.callbacks.TensorBoard("board", update_freq="epoch")]

def back_up():
    return [keras.callbacks.BackupAndRestore("backup")]

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


@pytest.mark.slow
def test_callbacks_are_told_of_every_epoch_and_superstep(place):
    record = run(place, "diary", "diary", "--steps-per-execution", 8)
    lines = json.loads((place / "diary0.json").read_text())
    assert lines[0] == ["train begins", 3, 21]
    assert [line[0] for line in lines[1:10]] == ["epoch begins"] + 4 * ["batch begins", "batch ends"]
    ends = [line[1] for line in lines if line[0] == "batch ends"]
    assert ends[:4] == [7, 15, 19, 20]  # full steps 8, 8 and 4, and a short one
    losses = [line[2]["loss"] for line in lines if line[0] == "epoch ends"]
    np.testing.assert_allclose(losses, history(record)["loss"])
    assert lines[-1][0] == "train ends"


@pytest.mark.slow
def test_early_stopping_ends_the_run(place):
    assert len(history(run(place, "early", "stop_early"))["epoch"]) == 2


@pytest.fixture(scope="module")
def diaries(place):
    """A run on two workers that both keep a diary."""
    return run(place, "diaries", "diary", processes=2)


@pytest.mark.slow
def test_every_rank_is_told_the_same_and_has_the_leaders_weights(place, diaries):
    first, second = (json.loads((place / f"diary{rank}.json").read_text()) for rank in (0, 1))
    assert first == second


@pytest.mark.slow
def test_what_one_rank_asks_for_ends_the_epoch_on_all(place):
    """With two shards of 11 steps; the epoch is validated, as in Keras's `fit`."""
    found = history(run(place, "alone", "stop_alone", "--steps-per-execution", 8, "--timeout", 60, processes=2))
    assert (found["epoch"], found["rows"]) == ([1], [2 * 8 * 50])
    assert np.isfinite(found["val_loss"]).all()


@pytest.mark.slow
def test_a_callback_changes_the_learning_rate_on_all_and_what_writes_files_runs_on_the_leader_alone(place, diaries):
    slowed = run(place, "slowed", "slow_down_and_write", processes=2)
    assert history(slowed)["loss"][:2] == history(diaries)["loss"][:2]
    assert history(slowed)["loss"][2] != history(diaries)["loss"][2]
    assert sorted(path.name for path in place.glob("kept-*")) == ["kept-1.keras", "kept-2.keras", "kept-3.keras"]
    with (place / "log.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["0", "1", "2"]


def drawn(directory):
    """Returns the values of the epochs in TensorBoard's files, by their names."""
    found = {}
    for path in directory.glob("events.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag.startswith("epoch_"):
                    found.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    return found


@pytest.mark.slow
def test_tensorboard_draws_losses_and_metrics_of_training_and_validation(place):
    values = history(run(place, "drawn", "draw"))
    for directory, prefix in (("train", ""), ("validation", "val_")):
        found = drawn(place / "board" / directory)
        for name in ("loss", "mse"):
            np.testing.assert_allclose(found[f"epoch_{name}"], values[prefix + name], rtol=1e-6)


def test_a_callback_that_would_go_on_by_itself_is_refused(place, monkeypatch):
    monkeypatch.syspath_prepend(place)
    with pytest.raises(UsageError, match=r"BackupAndRestore .*; leave it out: disttrain writes checkpoints"):
        build_callbacks("own_callbacks:back_up", World(), None, 1, 1)


@pytest.mark.slow
def test_what_is_no_list_of_callbacks_is_a_usage_error(place):
    done = disttrain(place, "--data", "data.csv", "--callbacks", "own_callbacks:wrong")
    assert done.returncode == 2
    assert "expected a list of keras.callbacks.Callback" in done.complaints[0]
