"""The trainer in this process, with real parts: what callbacks get and may ask for, compared with Keras's `fit`."""

import signal
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import pytest
from command import regression_rows
from keras.callbacks import CallbackList
from streaming import as_csv

from disttrain.checkpoints.commits import Commits
from disttrain.checkpoints.record import RunRecord
from disttrain.config.option_types import Every
from disttrain.data.epoch import EpochPlan
from disttrain.data.sharding import Sharding
from disttrain.data.superbatches import Feed
from disttrain.distributed.local import LocalBackend
from disttrain.distributed.replicas import OneReplica
from disttrain.errors import Stopped
from disttrain.training.checkpointing import Checkpointing
from disttrain.training.engine import Engine
from disttrain.training.evaluator import Evaluator
from disttrain.training.snapshots import Snapshots
from disttrain.training.stop_signals import StopSignals
from disttrain.training.trainer import Trainer

BATCH, STEPS_PER_EXECUTION, EPOCHS = 10, 8, 4
# Keras turns the learning rate into an array in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

TRAINING, VALIDATION = (
    regression_rows(325),
    regression_rows(85, seed=1),
)  # 4 x 8 steps and a short one; 8 and a short one


class Diary(keras.callbacks.Callback):
    """Records every call of its hooks."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def note(self, hook, number, logs):
        self.lines.append((hook, number, dict(logs or {})))

    def on_epoch_begin(self, epoch, logs=None):
        self.note("epoch begins", epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch ends", epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        self.note("batch begins", batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self.note("batch ends", batch, logs)

    def on_test_batch_begin(self, batch, logs=None):
        self.note("test batch begins", batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        self.note("test batch ends", batch, logs)

    def on_test_end(self, logs=None):
        self.note("test ends", None, logs)

    def on_train_end(self, logs=None):
        self.note("train ends", None, logs)


class StopAt(keras.callbacks.Callback):
    """Asks for the training's end at a batch of an epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.place, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = (self.epoch, batch) == self.place


class Signal(keras.callbacks.Callback):
    """Sends this process SIGTERM from one hook, as when a machine is taken away."""

    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, lambda *place, **logs: signal.raise_signal(signal.SIGTERM))


class Places(keras.callbacks.Callback):
    """Records which batches begin and end, as TensorBoard does."""

    def __init__(self):
        super().__init__()
        self.begun, self.ended = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.begun.append(batch)

    def on_train_batch_end(self, batch, logs=None):
        self.ended.append(batch)


def network():
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05), loss="mse", metrics=["mae"], steps_per_execution=STEPS_PER_EXECUTION)
    return model


@dataclass
class Job:
    """Runs of the same model on the same rows; the last one's checkpoints are in `commits`."""

    training: Feed
    validation: Feed
    commits: Commits = field(default_factory=Commits)

    def run(self, *callbacks, resumed=None):
        model, backend = network(), LocalBackend("local", OneReplica())
        told = CallbackList([*callbacks], model=model, epochs=EPOCHS, steps=self.training.sharding.num_steps, verbose=0)
        with StopSignals() as stop:
            checkpointing = Checkpointing(Every(), None, stop, self.commits)
            engine = Engine(model, backend, 3)
            evaluator = Evaluator(engine, backend, self.validation, told)
            snapshots = Snapshots(engine, backend, told, checkpointing, RunRecord(), pytest.fail)
            trainer = Trainer(engine, backend, self.training, told, checkpointing, snapshots, evaluator=evaluator)
            return model, trainer.run(EPOCHS, resumed)

    def stopped(self, *callbacks):
        """Runs until a signal stops the run, and returns its checkpoint."""
        with pytest.raises(Stopped):
            self.run(*callbacks)
        return self.commits.last


@pytest.fixture
def job(open_csv):
    def feed(name, x, y):
        source = open_csv("a,b,c,y\n" + as_csv(np.concatenate([x, y], axis=1)), name)
        return Feed(source, EpochPlan(Sharding(source.num_rows, 1, BATCH), range(1), STEPS_PER_EXECUTION))

    return Job(*(
        feed(name, *arrays)
        for name, arrays in (("training.csv", TRAINING), ("validation.csv", VALIDATION))
    ))  # fmt: skip


def changing(directory, *more):
    """Callbacks that change the learning rate, write files, and end the training in the middle of the third epoch."""
    slower = keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=0, min_delta=100.0, min_lr=0.0)
    files = keras.callbacks.ModelCheckpoint(str(directory / "best.keras"), monitor="val_loss", save_best_only=True)
    return [slower, files, StopAt(2, 15), *more]


def assert_same_lines(ours, theirs):
    whole = {("batch ends", 39): 32, ("test batch ends", 15): 8}  # Keras counts the last superbatch as a full one
    assert [line[:2] for line in ours] == [(hook, whole.get((hook, number), number)) for hook, number, _ in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert set(mine[-1]) == set(other[-1]), mine
        for name, value in other[-1].items():
            assert mine[-1][name] == pytest.approx(value, rel=1e-4), (mine, other)


@pytest.mark.slow
def test_callbacks_are_told_and_heard_as_by_keras_fit(job, tmp_path):
    """Covers losses and metrics after each superbatch, a falling learning rate, and an epoch that ends early."""
    ours, theirs, places = Diary(), Diary(), [tmp_path / name for name in ("ours", "theirs")]
    model, results = job.run(*changing(places[0], ours))
    expected = network()
    expected.fit(
        *TRAINING, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, validation_data=VALIDATION,
        validation_batch_size=BATCH, callbacks=changing(places[1], theirs),
    )  # fmt: skip
    assert_same_lines(ours.lines, theirs.lines)
    assert [line[0] for line in ours.lines].count("test batch ends") == 2 * 3
    assert [result.rows for result in results] == [325, 325, 160]
    assert job.commits.last.position.step == 16
    for mine, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
    kept = [keras.saving.load_model(place / "best.keras").get_weights() for place in places]
    for mine, other in zip(*kept, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_an_epoch_that_a_callback_ended_is_validated_after_a_stop_and_not_trained_on(job):
    _, whole = job.run(StopAt(0, 15))
    checkpoint = job.stopped(StopAt(0, 15), Signal("on_test_begin"))
    assert (checkpoint.position.epoch, checkpoint.position.step) == (1, 16)
    _, results = job.run(StopAt(0, 15), resumed=checkpoint)
    assert [(result.rows, result.values) for result in results] == [(160, whole[0].values)]


def board(directory: Path):
    return keras.callbacks.TensorBoard(
        str(directory), write_graph=False, profile_batch=0, update_freq=1, write_steps_per_second=True
    )


@pytest.mark.slow
def test_callbacks_that_count_and_time_go_on_in_the_middle_of_a_superbatch(job, tmp_path):
    whole, resumed = [Places(), board(tmp_path / "whole")], [Places(), board(tmp_path / "resumed")]
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)  # twice would be a quarter
    model, results = job.run(*whole, schedule)
    checkpoint = job.stopped(Places(), board(tmp_path / "stopped"), schedule, Signal("on_epoch_begin"))
    assert (checkpoint.position.epoch, checkpoint.position.step) == (1, 1)
    again, results_again = job.run(*resumed, schedule, resumed=checkpoint)
    assert [result.values for result in results_again] == [result.values for result in results]
    assert (resumed[0].begun, resumed[0].ended) == (whole[0].begun, whole[0].ended)
    assert resumed[1]._global_train_batch == whole[1]._global_train_batch
    for mine, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
