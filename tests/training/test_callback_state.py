"""The state of callbacks survives the process: training in two halves equals training in one."""

import io
import json
from collections import defaultdict

import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from keras.callbacks import Callback, CallbackList

from disttrain.checkpoints.file import Checkpoint, Position, read_checkpoint, write_checkpoint
from disttrain.errors import UsageError
from disttrain.training.callback_state import capture_callbacks, restore_callbacks

# Keras turns the learning rate into an array in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def through_a_file(captured):
    """Writes a checkpoint to a file and returns what is read back."""
    state, arrays = captured
    stream = io.BytesIO()
    write_checkpoint(Checkpoint(Position(1, 0), {"callbacks": state}, arrays), stream)
    found = read_checkpoint(stream, "here")
    json.dumps(found.about, allow_nan=False)
    return found.about["callbacks"], found.arrays


def carried(old, new):
    """Restores the old callbacks' state in the new ones; returns the messages."""
    return restore_callbacks(CallbackList(new), *through_a_file(capture_callbacks(CallbackList(old))))


# What the callbacks watch: the best so far in epochs 0, 1, 2, 5 and 8, then nothing better.
LOSSES = [5.0, 4.0, 3.0, 3.5, 3.2, 2.9, 3.1, 3.3, 2.8, 3.4, 3.0, 2.9, 2.95, 3.0]


class Scripted(Callback):
    """Replaces the values that callbacks monitor."""

    def on_epoch_end(self, epoch, logs=None):
        logs["watched"] = LOSSES[epoch]


class Snapshot(Callback):
    """What a checkpoint holds at the end of an epoch, before on_train_end changes the weights."""

    def on_epoch_end(self, epoch, logs=None):
        self.callbacks = through_a_file(capture_callbacks(self.watched))
        self.weights = [variable.numpy().copy() for variable in self.model.variables]
        self.optimizer = [variable.numpy().copy() for variable in self.model.optimizer.variables]


class Resume(Callback):
    """Restores a snapshot after the other callbacks' on_train_begin."""

    def __init__(self, snapshot):
        super().__init__()
        self.snapshot = snapshot

    def on_train_begin(self, logs=None):
        assert restore_callbacks(self.watched, *self.snapshot.callbacks) == []


def fit(first_epoch, epochs, *, resume_from=None):
    """Trains with fresh objects; returns the model, the callbacks, the snapshot and the history of the epochs run."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    watching = [
        Scripted(),
        keras.callbacks.EarlyStopping("watched", mode="min", patience=4, min_delta=0.01, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("watched", mode="min", patience=2, cooldown=1, factor=0.5),
    ]
    snapshot = Snapshot()
    resume = [] if resume_from is None else [Resume(resume_from)]
    for callback in (snapshot, *resume):
        callback.watched = CallbackList(watching)
    if resume_from is not None:
        for variable, value in zip(model.variables, resume_from.weights, strict=True):
            variable.assign(value)
        for variable, value in zip(model.optimizer.variables, resume_from.optimizer, strict=True):
            variable.assign(value)
    x = np.linspace(-1, 1, 40, dtype=np.float32).reshape(20, 2)
    history = model.fit(
        x, x[:, :1] ** 2, batch_size=5, shuffle=False, verbose=0, initial_epoch=first_epoch, epochs=epochs,
        callbacks=[*watching, snapshot, *resume],
    )  # fmt: skip
    return model, watching, snapshot, history.history


@pytest.fixture(scope="module")
def unsplit():
    return fit(0, len(LOSSES))


@pytest.mark.slow
@pytest.mark.parametrize("split", [1, 4, 7, 9, 12])
def test_training_in_two_halves_is_training_in_one(unsplit, split):
    model, (_, stopping, reducing), _, history = unsplit
    assert stopping.stopped_epoch == 12
    assert history["learning_rate"][-1] < 0.05 < history["learning_rate"][0]
    *_, snapshot, first_half = fit(0, split)
    again, (_, stopping_again, reducing_again), _, second_half = fit(split, len(LOSSES), resume_from=snapshot)
    for name in ("loss", "learning_rate"):
        assert first_half[name] + second_half[name] == history[name]
    for weight, expected in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected, strict=True)
    for name in ("wait", "best", "best_epoch", "stopped_epoch", "min_delta"):
        assert getattr(stopping_again, name) == getattr(stopping, name)
    for name in ("wait", "best", "cooldown_counter", "min_delta"):
        assert getattr(reducing_again, name) == getattr(reducing, name)


def built_in(tmp_path, seed):
    """One of each of Keras's own callbacks, with options that differ from run to run by their seed."""
    callbacks = keras.callbacks
    return [
        callbacks.EarlyStopping("loss", patience=5 + seed, min_delta=0.1, restore_best_weights=True),
        callbacks.ReduceLROnPlateau("loss", patience=5 + seed),
        callbacks.ModelCheckpoint(f"{tmp_path}/{seed}-{{epoch}}.keras", monitor="loss", save_best_only=True),
        callbacks.CSVLogger(f"{tmp_path}/{seed}.csv", append=True),
        callbacks.TensorBoard(f"{tmp_path}/{seed}-board", profile_batch=0),
        callbacks.LearningRateScheduler(lambda epoch: 0.1),
        callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        callbacks.SwapEMAWeights(),
        callbacks.TerminateOnNaN(),
        callbacks.History(),
    ]


# What each of them remembers, in Keras 3.15; the rest follows from its options, its files or its process.
REMEMBERED = {
    "EarlyStopping": {"best", "best_epoch", "best_weights", "stopped_epoch", "wait"},
    "ReduceLROnPlateau": {"best", "cooldown_counter", "wait"},
    "ModelCheckpoint": {"_batches_seen_since_last_saving", "_current_epoch", "_last_batch_seen", "best"},
    "CSVLogger": set(),
    "TensorBoard": {"_global_test_batch", "_global_train_batch"},
    "LearningRateScheduler": set(),
    "LambdaCallback": set(),
    "SwapEMAWeights": {"_ema_weights_in_model"},
    "TerminateOnNaN": set(),
    "History": {"epoch", "history"},
}


class Between(Callback):
    """Captures the others' state in each epoch, while their files are open."""

    def __init__(self, watched):
        super().__init__()
        self.watched = CallbackList(watched)

    def on_epoch_end(self, epoch, logs=None):
        self.captured = through_a_file(capture_callbacks(self.watched))


def test_of_keras_own_callbacks_what_they_remember_is_kept_and_nothing_else(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, use_ema=True), "mse")
    callbacks = built_in(tmp_path, 0)
    between = Between(callbacks)
    rows = np.ones((8, 1), np.float32)
    model.fit(rows, rows, batch_size=4, epochs=3, verbose=0, callbacks=[*callbacks, between])
    state, arrays = between.captured
    assert {entry["class"]: set(entry["state"]) for entry in state} == REMEMBERED
    assert [entry["left_out"] for entry in state] == [[]] * len(state)

    fresh = built_in(tmp_path, 1)
    assert restore_callbacks(CallbackList(fresh), state, arrays) == []
    for old, new in zip(callbacks, fresh, strict=True):
        for name in REMEMBERED[type(new).__name__] - {"best_weights"}:
            assert getattr(new, name) == getattr(old, name)
    stopping, _, checkpoint, *_ = fresh
    assert (stopping.patience, stopping.min_delta) == (6, 0.1)
    assert checkpoint.filepath.endswith("1-{epoch}.keras")
    assert len(stopping.best_weights) == 2


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | some.arrays(st.sampled_from(["f4", "i8", "U3", "?"]), some.array_shapes(min_dims=0, min_side=0, max_side=3)),
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


class Own(Callback):
    """Has whatever attributes a test gives it."""

    def __init__(self, **attributes):
        super().__init__()
        vars(self).update(attributes)


class Other(Own):
    pass


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, (np.ndarray, np.generic)):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert repr(found) == repr(expected)


@given(PLAIN, PLAIN)
def test_any_plain_data_comes_back_exactly(first, second):
    new = Own(first=1)
    assert carried([Own(first=first, second=second)], [new]) == []
    assert_same(new.first, first)
    assert_same(new.second, second)


SCALARS = [
    float("inf"),
    float("-inf"),
    float("nan"),
    -0.0,
    5e-324,
    2**70,
    np.float32(0.1),
    np.float64("nan"),
    np.int64(7),
    np.bool_(True),
    np.str_("best"),
    ml_dtypes.bfloat16(2.5),
    np.ones(2, ml_dtypes.bfloat16),
    {"is": "float", "of": "1"},  # looks like what we write
]


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_unusual_values_come_back_exactly(value):
    new = Own()
    assert carried([Own(value=value)], [new]) == []
    assert_same(new.value, value)


def test_what_is_captured_is_a_copy():
    old, new = Own(rows=np.zeros(3), names=["a"]), Own()
    captured = capture_callbacks(CallbackList([old]))
    old.rows += 1
    old.names.append("b")
    restore_callbacks(CallbackList([new]), *captured)
    assert_same(new.rows, np.zeros(3))
    assert new.names == ["a"]


def test_what_is_no_plain_data_is_left_out_and_containers_are_told_of():
    cycle = []
    cycle.append(cycle)
    old = Own(
        count=3, function=len, model=None, seen={1}, groups=defaultdict(list), cycle=cycle, mixed=[np.ones(2), len]
    )
    new = Own(count=0, seen=set(), groups=defaultdict(list))
    messages = carried([old], [new])
    assert new.count == 3
    assert new.seen == set()
    assert [message.split(":")[0] for message in messages] == [
        "Own.cycle (list)",
        "Own.groups (defaultdict)",
        "Own.mixed (list)",
        "Own.seen (set)",
    ]
    assert messages[0].endswith("so it starts over; define get_state and set_state to keep it")


class Deciding(Callback):
    """Defines its own state."""

    def __init__(self, seen=()):
        super().__init__()
        self.seen = set(seen)
        self.ignored = 1

    def get_state(self):
        return {"seen": sorted(self.seen), "weights": np.ones(2)}

    def set_state(self, state):
        self.seen = set(state["seen"])


def test_a_callback_may_say_itself_what_it_remembers():
    old, new = Deciding({3, 1}), Deciding()
    old.ignored = 2
    assert carried([old], [new]) == []
    assert (new.seen, new.ignored) == ({1, 3}, 1)


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ([1], r"Deciding.get_state\(\) returned list, expected a dict of str"),
        ({1: 2}, r"Deciding.get_state\(\) returned dict, expected a dict of str"),
        ({"a": [1, {2}]}, r"Deciding.get_state\(\)\['a'\] holds set, expected numbers"),
        ({"a": np.array([None])}, r"Deciding.get_state\(\)\['a'\] holds an array of object, expected numbers"),
    ],
)
def test_a_state_that_is_no_plain_data_is_a_usage_error(state, found, monkeypatch):
    monkeypatch.setattr(Deciding, "get_state", lambda self: state)
    with pytest.raises(UsageError, match=found):
        capture_callbacks(CallbackList([Deciding()]))


def test_callbacks_are_matched_by_class_and_order():
    old = [Own(count=1), Other(count=2), Own(count=3)]
    new = [Other(count=0), Own(count=0), keras.callbacks.TerminateOnNaN(), Own(count=0)]
    assert carried(old, new) == []
    assert [new[0].count, new[1].count, new[3].count] == [2, 1, 3]


def test_callbacks_without_a_counterpart_are_told_of():
    messages = carried([Own(count=1), Own(count=2), keras.callbacks.TerminateOnNaN()], [Own(), Other(count=0)])
    assert messages == [
        "Own: is in the checkpoint, but not among this run's callbacks",
        "Other: is not in the checkpoint, so it starts over",
    ]


def test_a_callback_that_watches_something_else_begins_anew():
    old, new = (keras.callbacks.EarlyStopping(monitor) for monitor in ("loss", "val_loss"))
    old.wait = 3
    messages = carried([old], [new])
    assert messages == ["EarlyStopping: watched loss in the checkpoint, val_loss in this run, so it starts over"]
    assert new.wait == 0


def test_a_class_that_came_to_decide_itself_begins_anew():
    before = type("Deciding", (Own,), {})
    new = Deciding()
    assert carried([before(seen=[1])], [new]) == [
        "Deciding: has get_state and set_state only in the checkpoint or only in this run, so it starts over"
    ]
    assert new.seen == set()
