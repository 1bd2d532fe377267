"""16-bit arithmetic, 16-bit gradients, and learning rates for large batches: what is learned stays nearly the same."""

import functools

import keras
import numpy as np
import pytest
from command import history
from faults import run, write_data

from disttrain.config import TrainConfig
from disttrain.training.model import build_model

LEARNING = ("--data", "data.csv", "--features", "x1,x2,x3", "--batch-size", 20, "--learning-rate", 0.01, "--epochs", 3)
MIRRORED_2 = ("--backend", "mirrored", "--devices", 2)

OWN_MODELS = """
import atexit, os
import keras
import numpy as np

def recorded(num_features, num_targets):
    "The network that is trained without a word about it; each process also keeps its own weights."
    dense = keras.layers.Dense
    layers = [dense(16, "relu"), dense(8, "relu"), dense(num_targets, dtype="float32")]
    model = keras.Sequential([keras.Input((num_features,)), *layers])
    name = f"{os.environ['SAVED_IN']}-rank{os.environ['HOROVOD_RANK']}"
    atexit.register(lambda: np.savez(name, *model.get_weights()))
    return model
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("precision")
    write_data(directory)
    (directory / "own_models.py").write_text(OWN_MODELS)
    return directory


@pytest.fixture(scope="module")
def learned(place):
    """The losses of two shards on one device, in float32 throughout."""
    run(place, *LEARNING, "--num-shards", 2, "--output", "float32")
    return history(place / "float32")["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "devices"), [("mixed_bfloat16", ()), ("mixed_float16", MIRRORED_2)])
def test_mixed_precision_learns_as_much(place, learned, precision, devices):
    """16-bit numbers have three significant digits, or two; the second epoch's loss is half the first one's."""
    run(place, *LEARNING, *devices, "--num-shards", 2, "--precision", precision, "--output", precision)
    np.testing.assert_allclose(history(place / precision)["loss"], learned, rtol=0.05)
    assert history(place / precision)["loss"] != learned
    saved = keras.saving.load_model(place / precision / "model.keras")
    assert {layer.dtype_policy.name for layer in saved.layers} == {precision, "float32"}
    assert {variable.dtype for variable in saved.variables} == {"float32"}


@pytest.fixture(scope="module")
def scaled(place):
    """The losses of two workers that scale the loss, by the compression of their gradients; made once."""

    @functools.cache
    def of(compression):
        name = f"scaled-{compression}"
        options = ("--precision", "mixed_float16", "--compression", compression, "--model", "own_models:recorded")
        run(place, *LEARNING, *options, "--output", name, processes=2, SAVED_IN=name)
        return history(place / name)["loss"]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "fp16"])
def test_two_workers_that_scale_the_loss_learn_as_much_and_stay_equal(place, learned, scaled, compression):
    np.testing.assert_allclose(scaled(compression), learned, rtol=0.05)
    ranks = [np.load(place / f"scaled-{compression}-rank{rank}.npz") for rank in (0, 1)]
    for name in ranks[0].files:
        np.testing.assert_array_equal(ranks[0][name], ranks[1][name])


@pytest.mark.slow
def test_gradients_sent_as_16_bit_floats_are_rounded(scaled):
    differences = np.abs(np.divide(scaled("fp16"), scaled("none")) - 1)
    assert 1e-5 < differences.max() < 0.05  # what is sent alike agrees to 1e-6


def test_a_scaled_learning_rate_is_reached_step_by_step():
    """Twice that of one shard for two shards; half an epoch of 20 steps is warm-up."""

    def optimizer(**options):
        config = TrainConfig(learning_rate=0.001, scale_lr=True, **options)
        return build_model(config, 3, 1, num_shards=2, steps_per_epoch=20).optimizer

    assert float(optimizer().learning_rate) == pytest.approx(0.002)
    schedule = optimizer(warmup_epochs=0.5)._learning_rate
    rates = [float(schedule(step)) for step in (0, 5, 10, 1000)]
    np.testing.assert_allclose(rates, [0.001, 0.0015, 0.002, 0.002], rtol=1e-6)


@pytest.mark.slow
def test_a_warm_up_goes_on_where_a_run_was_stopped(place):
    """It takes one and a half of three epochs; the second and the third are those of two workers."""
    options = (*LEARNING, "--scale-lr", "--warmup-epochs", 1.5)
    run(place, *options, "--num-shards", 2, "--output", "warm-alone")
    run(place, *options, "--num-shards", 2, "--epochs", 1, "--output", "warm")
    assert "Going on from the checkpoint of epoch 1" in run(place, *options, "--output", "warm", processes=2)
    np.testing.assert_allclose(history(place / "warm")["loss"], history(place / "warm-alone")["loss"], rtol=1e-5)
