"""Numbers that are not finite: the run ends before their update, naming rank, step and lines, or leaves it out."""

import keras
import numpy as np
import pytest
from command import disttrain, history, regression_rows, trained, weights, write_csv

from disttrain.data.epoch import EpochPlan
from disttrain.data.locate import step_rows
from disttrain.data.sharding import Sharding
from disttrain.data.shuffle import EpochOrder
from disttrain.data.superbatches import superbatches

ROWS, BATCH = 1200, 50
BAD_ROW = 730  # with two shards: rank 1, its third step
BAD_LINE = BAD_ROW + 2  # the header is line 1
TRAIN = ("--batch-size", BATCH, "--epochs", 2, "--loss", "mse", "--metrics", "mae", "--hidden", "8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("nonfinite")
    x, y = regression_rows(ROWS)
    y[BAD_ROW] = np.nan
    write_csv(directory / "nan.csv", x, y)
    (directory / "own_models.py").write_text(
        "import keras\n"
        "def normalized(num_features, num_targets):\n"
        "    layers = [keras.layers.BatchNormalization(), keras.layers.Dense(num_targets)]\n"
        "    model = keras.Sequential([keras.Input((num_features,)), *layers])\n"
        "    model.compile(keras.optimizers.Adam(0.01), loss='mse', metrics=['mae'])\n"
        "    return model\n"
    )
    x[BAD_ROW] = np.nan
    write_csv(directory / "nan_x.csv", x, np.zeros_like(y))
    return directory


@pytest.mark.slow
def test_under_local_steps_the_rank_whose_rows_they_are_says_so_and_all_end(place):
    """With an all-reduce at every step: tests/distributed/test_backends.py."""
    done = disttrain(place, "--data", "nan.csv", *TRAIN, "--sync-every", 4, "--output", "two", processes=2)
    (said,) = [line for line in done.complaints if "the loss became" in line]
    assert done.returncode != 0
    assert said.startswith("disttrain: rank 1: epoch 1, step 3: the loss became nan")
    assert "lines 702 to 751" in said
    assert f"line {BAD_LINE} holds nan" in said


def without_the_bad_step(place, model_of, num_shards=1):
    """Trains plain Keras on the batches without the bad one, epoch after epoch."""
    rows = np.genfromtxt(place / "nan.csv", delimiter=",", skip_header=1, dtype=np.float32)
    model = model_of()
    shards = np.split(rows, num_shards)
    for _ in range(2):
        for start in range(0, len(shards[0]), BATCH):
            batch = np.concatenate([shard[start : start + BATCH] for shard in shards])
            if np.isfinite(batch).all():
                model.train_on_batch(batch[:, :3], batch[:, 3:])
    return model.get_weights()


def dense():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(), loss="mse")
    return model


@pytest.mark.slow
def test_a_skipped_step_is_as_if_its_rows_were_not_there(place):
    run = trained(place, "skipped", "--data", "nan.csv", *TRAIN, "--on-nonfinite", "skip")
    for ours, theirs in zip(weights(run), without_the_bad_step(place, dense), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    kept = history(run)
    assert kept["skipped_steps"] == [1, 1]
    assert kept["rows"] == [ROWS, ROWS]
    assert np.isfinite([*kept["loss"], *kept["mae"]]).all()


@pytest.mark.slow
def test_a_skipped_step_is_skipped_by_all_workers(place):
    run = trained(place, "skipped2", "--data", "nan.csv", *TRAIN, "--on-nonfinite", "skip", processes=2)
    for ours, theirs in zip(weights(run), without_the_bad_step(place, dense, num_shards=2), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert history(run)["skipped_steps"] == [1, 1]


@pytest.mark.slow
def test_a_skipped_step_leaves_no_trace_in_batch_normalization(place):
    arguments = ("--data", "nan_x.csv", "--batch-size", BATCH, "--epochs", 1, "--on-nonfinite", "skip")
    run = trained(place, "normalized", *arguments, "--model", "own_models:normalized")
    assert all(np.isfinite(values).all() for values in weights(run))


@pytest.mark.parametrize("mode", ["none", "shard", "global"])
def test_the_rows_that_are_named_are_the_rows_that_were_streamed(open_csv, mode):
    """On a file whose only target is the row's own number, for the first step, a middle one and the short last one."""
    source = open_csv("x,y\n" + "".join(f"1,{row}\n" for row in range(2345)), name=f"{mode}.csv")
    sharding, order = Sharding(source.num_rows, 2, 100), EpochOrder(mode, seed=3)
    for epoch, shards in ((1, range(2)), (4, range(1, 2))):
        plan = EpochPlan(sharding, shards, 1, order).of_epoch(epoch)
        with superbatches(source, plan) as stream:
            for superbatch in stream:
                streamed = superbatch.data[0, :, 1].astype(int)
                np.testing.assert_array_equal(streamed, step_rows(source, plan, superbatch.first_step))
