"""`--sync-every`: steps taken alone, then weights averaged; every row once, and the same weights everywhere."""

import keras
import numpy as np
import pytest
from command import history, regression_rows, trained, weights, write_csv

ROWS, BATCH = 2003, 50  # two shards of 1002 and 1001 rows: 20 full steps and a short one of 2 and 1 rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("local_sgd")
    write_csv(directory / "data.csv", *regression_rows(ROWS))
    write_csv(directory / "bad.csv", *rows_with_a_bad_one())
    (directory / "own_models.py").write_text(
        "import keras\n"
        "def sgd(num_features, num_targets):\n"
        "    model = keras.Sequential([keras.Input((num_features,)), keras.layers.Dense(num_targets)])\n"
        "    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss='mse', metrics=['mae'])\n"
        "    return model\n"
    )
    return directory


def rows_with_a_bad_one():
    """In the first shard's sixth step."""
    x, y = regression_rows(ROWS)
    y[5 * BATCH] = np.nan
    return x, y


def run(place, name, *more, processes=2, data="data.csv"):
    arguments = ("--data", data, "--batch-size", BATCH, "--epochs", 2, "--num-shards", 2)
    return trained(place, name, *arguments, *more, processes=processes)


def averaged_alone(x, y, sync_every):
    """Does in one process what two workers do: each trains its own copy on its shard, and the copies are averaged.

    A copy skips a step whose rows are not finite; the other copy takes it.
    """
    shards = [(x[:1002], y[:1002]), (x[1002:], y[1002:])]
    copies = []
    for _ in shards:
        keras.utils.set_random_seed(0)
        copies.append(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
        copies[-1].compile(keras.optimizers.SGD(0.05, momentum=0.9), loss="mse")
        copies[-1].optimizer.build(copies[-1].trainable_variables)
    num_steps, full = 21, 20
    for _ in range(2):
        for step in range(num_steps):
            rows = slice(step * BATCH, (step + 1) * BATCH)
            for copy, (own_x, own_y) in zip(copies, shards, strict=True):
                if np.isfinite(own_y[rows]).all():
                    copy.train_on_batch(own_x[rows], own_y[rows])
            if (step + 1) % sync_every == 0 or step + 1 in (full, num_steps):
                average(copies)
    return copies[0].get_weights()


def average(copies):
    for variables in zip(*([*copy.trainable_variables, *copy.optimizer.variables] for copy in copies), strict=True):
        if "float" in variables[0].dtype:
            mean = np.mean([variable.numpy() for variable in variables], axis=0)
            for variable in variables:
                variable.assign(mean)


def assert_equals_copies(record, x, y, sync_every):
    for ours, theirs in zip(weights(record), averaged_alone(x, y, sync_every), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_local_steps_equal_copies_trained_apart_and_averaged(place):
    record = run(place, "sgd", "--model", "own_models:sgd", "--sync-every", 7)
    assert_equals_copies(record, *regression_rows(ROWS), 7)


@pytest.mark.slow
def test_a_worker_leaves_its_own_bad_step_out_and_the_others_take_theirs(place):
    skips = ("--on-nonfinite", "skip")
    record = run(place, "bad", "--model", "own_models:sgd", "--sync-every", 4, *skips, data="bad.csv")
    assert_equals_copies(record, *rows_with_a_bad_one(), 4)
    told = history(record)
    assert told["skipped_steps"] == [1, 1]
    assert np.isfinite([*told["loss"], *told["mae"]]).all()
    assert keras.saving.load_model(record / "model.keras").optimizer.iterations == 2 * 21  # as on the other worker


@pytest.mark.slow
def test_local_steps_learn_about_as_well_and_repeat_to_the_bit(place):
    every_step, local, again = (run(place, name, *more) for name, more in (
        ("every", ()), ("local", ("--sync-every", 8)), ("again", ("--sync-every", 8)),
    ))  # fmt: skip
    assert history(local)["loss"][-1] == pytest.approx(history(every_step)["loss"][-1], rel=0.1)
    for first, second in zip(weights(local), weights(again), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_alone_there_is_nothing_to_average(place):
    plain, local = run(place, "plain1", processes=None), run(place, "local1", "--sync-every", 8, processes=None)
    for ours, theirs in zip(weights(local), weights(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
