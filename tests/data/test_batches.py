"""The public generator, used as someone with a training loop of their own would."""

import subprocess
import sys
import threading
import types

import numpy as np
import pytest

import disttrain
from disttrain.data.sharding import shard_range
from disttrain.errors import DataError, UsageError


@pytest.fixture
def csv(tmp_path):
    """1001 rows `x,y,z` = `i, -i, 2i`."""
    path = tmp_path / "a.csv"
    path.write_text("x,y,z\n" + "".join(f"{row},{-row},{2 * row}\n" for row in range(1001)))
    return path


@pytest.fixture
def batches(cache_dir):
    def make(*args, **options):
        return disttrain.batches(*args, cache_dir=cache_dir, **options)

    return make


def test_every_row_is_yielded_once_and_only_the_last_batch_is_short(csv, batches):
    found = list(batches(csv, 250))
    assert [(x.shape, y.shape) for x, y in found] == [((250, 2), (250, 1))] * 4 + [((1, 2), (1, 1))]
    for array in (array for batch in found for array in batch):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
    rows = np.arange(1001, dtype=np.float32)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), np.stack([rows, -rows], axis=1))
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), 2 * rows[:, None])


@pytest.mark.parametrize("mode", ["shard", "global"])
def test_shuffled_epochs_have_every_row_once_each_in_another_order(csv, batches, mode):
    shards = [
        np.concatenate([x[:, 0] for x, _ in batches(csv, 10, shuffle=mode, seed=2, epochs=2, shard=k, num_shards=2)])
        for k in range(2)
    ]
    lengths = [501, 500]
    epochs = [np.concatenate([rows[:length] for rows, length in zip(shards, lengths, strict=True)])]
    epochs.append(np.concatenate([rows[length:] for rows, length in zip(shards, lengths, strict=True)]))
    for rows in epochs:
        assert np.sort(rows).tolist() == list(range(1001))
    assert epochs[0].tolist() != epochs[1].tolist()


def test_batches_from_the_cache_are_the_same_and_ones_own(csv, batches, tmp_path):
    plain = list(batches(csv, 40))
    for _ in range(2):
        kept = list(batches(csv, 40, cache=tmp_path / "kept", epochs=2))
        for (x, y), (plain_x, plain_y) in zip(kept, plain * 2, strict=True):
            np.testing.assert_array_equal(x, plain_x)
            np.testing.assert_array_equal(y, plain_y)
            x += 1  # into nobody else's rows
            y += 1
    assert len(list((tmp_path / "kept").glob("*/rows"))) == 1


def test_columns_may_be_named_alone_or_in_a_list(csv, batches):
    for features, target in [("z", "x"), (["z"], ["x"])]:
        x, y = next(batches(csv, 3, features=features, target=target))
        assert x.tolist() == [[0], [2], [4]]
        assert y.tolist() == [[0], [1], [2]]
    x, y = next(batches(csv, 3, target=["x", "z"]))
    assert (x.shape, y.shape) == ((3, 1), (3, 2))


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7, 16])
def test_shards_share_the_rows(csv, batches, cache_dir, num_shards):
    for shard in range(num_shards):
        found = list(batches(csv, 10, shard=shard, num_shards=num_shards))
        rows = shard_range(1001, num_shards, shard)
        assert np.concatenate([x[:, 0] for x, _ in found]).tolist() == list(range(rows.start, rows.stop))
        options = {"shard": shard, "num_shards": num_shards, "cache_dir": cache_dir}
        assert disttrain.num_batches(csv, 10, **options) == len(found)


def test_epochs_follow_each_other(csv, batches):
    once = [x.tolist() for x, _ in batches(csv, 100)]
    assert [x.tolist() for x, _ in batches(csv, 100, epochs=3)] == once * 3
    endless = batches(csv, 100, epochs=None)
    assert [next(endless)[0].tolist() for _ in range(5 * len(once))] == once * 5
    endless.close()


def test_more_shards_than_rows_leave_some_empty(tmp_path, batches):
    (tmp_path / "b.csv").write_text("1,2\n3,4\n")
    sizes = [sum(len(x) for x, _ in batches(tmp_path / "b.csv", 5, shard=k, num_shards=4)) for k in range(4)]
    assert sizes == [1, 1, 0, 0]


def test_closing_the_generator_ends_its_threads(csv, batches):
    before = set(threading.enumerate())
    generator = batches(csv, 1)
    next(generator)
    generator.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert set(threading.enumerate()) <= before


REQUESTS = [
    # arguments, options, what the message says
    ((0,), {}, "batch_size is 0"),
    ((10,), {"shard": 2, "num_shards": 2}, "shard is 2, expected 0 to 1"),
    ((10,), {"shard": -1}, "shard is -1"),
    ((10,), {"epochs": 0}, "epochs is 0"),
    ((10,), {"shuffle": "rows"}, "shuffle is 'rows', expected one of none, shard, global"),
]


@pytest.mark.parametrize(("arguments", "options", "says"), REQUESTS)
def test_arguments_are_checked_at_once(csv, batches, arguments, options, says):
    with pytest.raises(UsageError, match=says):
        batches(csv, *arguments, **options)


def test_faults_come_out_of_the_generator(csv, tmp_path, batches):
    with pytest.raises(UsageError, match="no column 'w'"):
        next(batches(csv, 10, features=["w"]))
    with pytest.raises(UsageError, match="no such file"):
        next(batches(tmp_path / "none.csv", 10))
    csv.write_text("x,y\n" + "1,2\n" * 500 + "1,two\n")
    with pytest.raises(DataError, match="line 502: column 'y' holds 'two'"):
        list(batches(csv, 10))


def test_the_default_cache_directory_is_the_commands(csv, cache_dir, monkeypatch):
    monkeypatch.setenv("DISTTRAIN_CACHE_DIR", str(cache_dir))
    assert disttrain.num_batches(csv, 250) == 5
    assert len(list((cache_dir / "index").iterdir())) == 1


def test_keras_trains_on_it_as_on_the_arrays(csv, batches, cache_dir):
    import keras

    csv.write_text("x,y\n" + "".join(f"{i / 100},{i / 50}\n" for i in range(105)))
    rows = np.loadtxt(csv, delimiter=",", skiprows=1, dtype=np.float32)
    weights = []
    for streamed in (True, False):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("adam", "mae")
        if streamed:
            data = batches(csv, 10, epochs=3)
            assert isinstance(data, types.GeneratorType)  # the only iterator that Keras takes
            steps = disttrain.num_batches(csv, 10, cache_dir=cache_dir)
            history = model.fit(data, steps_per_epoch=steps, epochs=3, shuffle=False, verbose=0)
            assert len(history.history["loss"]) == 3
            assert next(data, None) is None
        else:
            model.fit(rows[:, :1], rows[:, 1:], batch_size=10, epochs=3, shuffle=False, verbose=0)
        weights.append(np.concatenate([weight.ravel() for weight in model.get_weights()]))
    np.testing.assert_allclose(*weights, rtol=1e-5)


def test_the_public_names_are_sorted_and_there():
    assert disttrain.__all__ == sorted(disttrain.__all__)
    assert set(disttrain.__all__) <= set(dir(disttrain))
    for name in disttrain.__all__:
        assert callable(getattr(disttrain, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = disttrain.nothing


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, disttrain; print([name for name in sys.modules if not name.startswith('_')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for name in ("tensorflow", "keras", "numba", "numpy", "fsspec", "pydantic"):
        assert f"'{name}'" not in done.stdout
