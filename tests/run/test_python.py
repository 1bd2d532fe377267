"""disttrain from Python: fit, evaluate, predict and open_csv, in a script, under horovodrun and in a notebook."""

import inspect
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from command import LAUNCHER, ROOT, disttrain, environment, history, regression_rows, write_csv

import disttrain as package
from disttrain.config import TrainConfig
from disttrain.errors import DataError, UsageError

OWN = """
import keras

def made():
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse", metrics=["mae"])
    return model
"""
SCRIPT = f"""{OWN}
import json, os, sys
import numpy as np
import disttrain

name, devices = sys.argv[1], int(os.environ.get("DEVICES", "1"))
model = made if devices > 1 else made()
seen = []
listener = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
how = dict(target="y0", batch_size=25, num_shards=2, devices=devices)
history = disttrain.fit(model, "a.csv", epochs=3, callbacks=[listener], output="of-" + name, **how)
found = disttrain.evaluate("of-" + name, "a.csv")
answers = disttrain.predict("of-" + name if devices > 1 else model, "a.csv", target="y0")
told = dict(
    history=history.history, epochs=history.epoch, seen=seen, values=dict(found.values),
    answers=np.ravel(answers)[:5].tolist(), rows=len(answers),
    weights=[float(one.sum()) for one in model.get_weights()] if devices == 1 else [],
)
if os.environ.get("HOROVOD_RANK", "0") == "0":
    open("told-" + name + ".json", "w").write(json.dumps(told))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("python")
    write_csv(directory / "a.csv", *regression_rows(2000))
    (directory / "script.py").write_text(SCRIPT)
    return directory


def script(place, name, *launcher, **extra):
    done = subprocess.run(
        [*launcher, sys.executable, "script.py", name], cwd=place, env=environment(place, **extra), capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((place / f"told-{name}.json").read_text())


@pytest.fixture(scope="module")
def alone(place):
    return script(place, "one")


@pytest.mark.slow
def test_a_script_gets_what_the_command_would_have_given(place, alone):
    """The same model, by a function of a module, trained by the command."""
    (place / "own.py").write_text(OWN)
    words = ("--data", "a.csv", "--targets", "y0", "--batch-size", 25, "--num-shards", 2, "--epochs", 3)
    done = disttrain(place, *words, "--model", "own:made", "--output", "commanded")
    assert done.returncode == 0, done.stderr
    for name in ("loss", "mae"):
        np.testing.assert_allclose(alone["history"][name], history(place / "commanded")[name], rtol=1e-6)
    assert alone["epochs"] == alone["seen"] == [0, 1, 2]
    assert alone["rows"] == 2000
    model = keras.saving.load_model(place / "of-one" / "model.keras")
    assert [float(one.sum()) for one in model.get_weights()] == pytest.approx(alone["weights"])
    x, y = regression_rows(2000)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(alone["answers"], expected[:5, 0], rtol=1e-5)
    trusted = disttrain(place, "evaluate", "of-one", "a.csv", "--trust-model")
    assert trusted.returncode == 0, trusted.stderr
    newest = sorted((place / "of-one" / "checkpoints").iterdir())[-1]
    refused = disttrain(place, "evaluate", newest, "a.csv", "--trust-model")
    assert (refused.returncode, "its model came from a Python program" in refused.stderr) == (2, True)
    assert alone["values"]["loss"] == pytest.approx(float(np.mean((expected - y) ** 2)), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["horovodrun", "mirrored"])
def test_several_workers_or_devices_train_the_same_model(place, alone, how):
    """Devices are chosen before anything uses TensorFlow: there, the model comes from a function."""
    launcher, extra = ([*LAUNCHER, "-np", "2"], {}) if how == "horovodrun" else ([], {"DEVICES": "2"})
    told = script(place, how, *launcher, **extra)
    for name in ("loss", "mae"):
        np.testing.assert_allclose(told["history"][name], alone["history"][name], rtol=1e-5)
    np.testing.assert_allclose(told["answers"], alone["answers"], rtol=1e-4)
    assert told["values"]["loss"] == pytest.approx(alone["values"]["loss"], rel=1e-4)
    assert told["rows"] == 2000


@pytest.mark.slow
def test_a_notebook_shows_one_line_that_changes(place, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    cells = [
        "import keras, disttrain\nmodel = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])",
        "history = disttrain.fit(model, 'a.csv', target='y0', epochs=40)\nprint('epochs:', len(history.epoch))",
        "try:\n    disttrain.fit(model, 'none.csv')\nexcept disttrain.errors.UsageError as error:\n    print(error)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    for name, value in environment(place, TF_CPP_MIN_LOG_LEVEL="3").items():
        monkeypatch.setenv(name, value)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(place)}}).execute()
    outputs = notebook.cells[1].outputs
    lines = [str(one.get("data", {}).get("text/plain", "")).strip("'") for one in outputs]
    progress = [line for line in lines if line.startswith("epoch ")]
    assert len(progress) == 1, lines
    assert progress[0].startswith("epoch 40/40 · loss ")
    assert any("epochs: 40" in one.get("text", "") for one in outputs)
    assert any("none.csv: no such file" in one.get("text", "") for one in notebook.cells[2].outputs)


def test_what_is_wrong_is_an_exception(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(UsageError, match=r"fit: there is no option epoch; did you mean epochs\?"):
        package.fit(None, "a.csv", epoch=3)
    with pytest.raises(
        UsageError, match=r"fit\(batch_size\): 0 is not possible: expected a number greater than or equal"
    ):
        package.fit(None, "a.csv", batch_size=0)
    with pytest.raises(UsageError, match=r"predict\(answer\): 'labels' is not possible"):
        package.predict("of-one", "a.csv", answer="labels")
    with pytest.raises(UsageError, match=r"none\.csv: no such file"):
        package.open_csv("none.csv")
    (place / "empty.csv").write_text("x,y\n")
    with pytest.raises(DataError, match="has a header line but no rows"):
        package.open_csv("empty.csv")


def test_the_public_names_and_their_arguments():
    assert package.__all__ == ["batches", "evaluate", "export", "fit", "num_batches", "open_csv", "predict"]
    assert set(package.__all__) < set(dir(package))
    options = set(TrainConfig.model_fields) - {"data", "model", "targets", "callbacks"}
    fixed = {"model", "data", "target", "callbacks"}
    assert set(inspect.signature(package.fit).parameters) == fixed | options
    assert list(inspect.signature(package.evaluate).parameters)[:4] == ["model", "data", "target", "features"]
    assert list(inspect.signature(package.predict).parameters)[:5] == ["model", "data", "output", "target", "features"]
    assert list(inspect.signature(package.export).parameters)[:5] == ["model", "data", "output", "target", "features"]
    assert list(inspect.signature(package.open_csv).parameters) == [
        "path", "features", "target", "header", "delimiter", "cache_dir",
    ]  # fmt: skip
    assert (ROOT / "disttrain" / "py.typed").exists()


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"numpy", "tensorflow", "keras", "numba", "pydantic"}
    program = f"import sys, disttrain; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture(scope="module")
def opened(place):
    return package.open_csv(place / "a.csv", target="y0", cache_dir=place / "cache")


def test_an_open_csv_knows_its_columns_its_rows_and_its_statistics(opened):
    x, _ = regression_rows(2000)
    assert opened.columns == ("x0", "x1", "x2", "y0")
    assert (opened.features, opened.targets, len(opened)) == (("x0", "x1", "x2"), ("y0",), 2000)
    assert opened.stats["x1"].mean == pytest.approx(float(x[:, 1].mean()), abs=1e-6)
    assert opened.stats["y0"].numbers == 2000


def test_shards_and_batches_of_it_are_the_rows(opened):
    x, y = regression_rows(2000)
    parts = [opened.shard(index, 3) for index in range(3)]
    assert sum(map(len, parts)) == 2000
    found = [batch for part in parts for batch in part.batches(64)]
    np.testing.assert_array_equal(np.concatenate([one for one, _ in found]), x)
    np.testing.assert_array_equal(np.concatenate([one for _, one in found]), y)
    with pytest.raises(UsageError, match="expected 0 to 2"):
        opened.shard(3, 3)
    with pytest.raises(UsageError, match="is cut already"):
        parts[0].shard(0, 2)


def test_a_tf_dataset_of_it_has_an_exact_cardinality_and_fits_keras(opened):
    x, y = regression_rows(2000)
    dataset = opened.shard(1, 2).to_tf_dataset(64)
    assert int(dataset.cardinality()) == 16
    for _ in range(2):
        found = [(a.numpy(), b.numpy()) for a, b in dataset]
        np.testing.assert_array_equal(np.concatenate([one for one, _ in found]), x[1000:])
        np.testing.assert_array_equal(np.concatenate([one for _, one in found]), y[1000:])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    losses = model.fit(opened.to_tf_dataset(50, shuffle="global"), epochs=3, verbose=0, shuffle=False).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_tf_dataset_of_it_is_distributed_over_replicas(place):
    program = """if True:
        import keras, numpy as np, tensorflow as tf, disttrain
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        dataset = disttrain.open_csv("a.csv", target="y0").to_tf_dataset(50)
        rows = 0
        for x, y in strategy.experimental_distribute_dataset(dataset):
            rows += sum(len(one) for one in strategy.experimental_local_results(x))
        assert rows == 2000, rows
        with strategy.scope():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            model.compile("sgd", "mse")
        losses = model.fit(dataset, epochs=2, verbose=0).history["loss"]
        assert losses[1] < losses[0]
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=place, env=environment(place), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
