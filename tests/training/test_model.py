"""A user's own model: which of its settings take effect, and which are rejected because they would not."""

import keras
import pytest

from disttrain.config import TrainConfig
from disttrain.errors import UsageError
from disttrain.training.model import build_model

OWN_MODELS = """
import keras

class Plain(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
    def call(self, x):
        return self.dense(x)

class OwnTraining(Plain):
    def train_step(self, data):
        return super().train_step(data)

class OwnTest(keras.Sequential):
    def test_step(self, data):
        return super().test_step(data)

class OwnLoss(Plain):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y - y_pred) ** 4)

def plain(): return Plain()
def own_training(): return OwnTraining()
def own_test(): return OwnTest([keras.layers.Dense(1)])
def own_loss(): return OwnLoss()
def sequential(): return keras.Sequential([keras.layers.Dense(1)])
def functional():
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(1)(inputs))
def eager():
    model = Plain()
    model.compile(loss="mse", run_eagerly=True)
    return model
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    (tmp_path / "built_models.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(tmp_path)

    def of(function):
        config = TrainConfig(model=f"built_models:{function}")
        return build_model(config, 3, 1, num_shards=1, steps_per_epoch=1)

    return of


@pytest.mark.parametrize("function", ["plain", "own_loss", "sequential", "functional"])
def test_models_of_every_kind_are_taken_also_with_a_loss_of_their_own(build, function):
    assert isinstance(build(function), keras.Model)


@pytest.mark.parametrize(("function", "words"), [
    ("own_training", "OwnTraining has a train_step of its own, which would not be called; .* into compute_loss"),
    ("own_test", "OwnTest has a test_step of its own, which would not be called"),
    ("eager", "is compiled with run_eagerly=True, but steps are compiled; leave it out"),
])  # fmt: skip
def test_what_would_be_ignored_is_refused(build, function, words):
    with pytest.raises(UsageError, match=f"--model built_models:{function}: .*{words}"):
        build(function)
