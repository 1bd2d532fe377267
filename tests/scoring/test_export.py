"""`disttrain export`: what the exported models give, in the programs that they are for, is what Keras gives."""

import functools
import shutil
import sys

import keras
import numpy as np
import onnxruntime
import polars
import pytest
import tensorflow as tf
from command import disttrain, trained, write_csv
from raw_rows import COLUMNS, encoded, raw, rows, table_of
from tables import raw_inputs, write_table

import disttrain as library
from disttrain.data.table.columns import Column, Table
from disttrain.errors import UsageError
from disttrain.scoring.exporting.comparison import answers_of, differences
from disttrain.scoring.exporting.exportable import exportable
from disttrain.scoring.exporting.onnx_model import write_onnx
from disttrain.scoring.exporting.place import check_free, put
from disttrain.scoring.exporting.savedmodel import write_savedmodel
from disttrain.scoring.exporting.tflite import write_tflite
from disttrain.scoring.saved import Trained
from disttrain.training.description import Description

WRITERS = {"savedmodel": write_savedmodel, "onnx": write_onnx, "tflite": write_tflite}
LEFT_OUT = {  # texts that are hashed, and numbers that need float64
    "savedmodel": (),
    "onnx": ("user",),
    "tflite": ("user", "floor", "od/a b"),
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:When providing `inputs` as a dict", "ignore:.*tf.lite.Interpreter is deprecated"
)


def in_memory(core, table=None, features=()):
    names = tuple(column.name for column in table.features) if table is not None else features
    return Trained("a model", "", core, Description(names, ("y",), table, False, "regression", "mse", ()))


@pytest.mark.parametrize("format_", [pytest.param("savedmodel", marks=pytest.mark.slow), "onnx", "tflite"])
def test_columns_of_every_kind_become_what_they_were_in_the_training(format_, tmp_path):
    table = table_of([column.name for column in COLUMNS if column.name not in LEFT_OUT[format_]])
    made = rows()
    core = keras.Sequential([keras.Input((len(table.feature_slots),)), keras.layers.Rescaling(1.0)])
    model = in_memory(core, table)
    run = WRITERS[format_](model, exportable(model), tmp_path / "model").run
    given = raw(table, made)
    expected = encoded(table, made)
    tolerance = 1e-5 if format_ == "tflite" else 1e-6
    np.testing.assert_allclose(run(given)["predictions"], expected, rtol=tolerance, atol=tolerance)
    one = run({name: value[:1] for name, value in given.items()})  # as a server gives it
    np.testing.assert_allclose(one["predictions"], expected[:1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("format_", WRITERS)
def test_columns_may_have_any_names(format_, tmp_path):
    """Those of outputs, operations and arguments, and such as only differ in what TensorFlow does not allow."""
    names = ["label", "predicted_label", "probabilities", "self", "round", "take", "a b", "a_b", "日本", "größe"]
    features = [
        *(Column(name, "number", fill=1.0, drops=name == "a b") for name in names[:-2]),
        Column("日本", "category", categories=("x", "y")),
        Column("größe", "time", parts=("hour",), fill=0.0, is_text=True),
    ]
    table = Table((*features, Column("y", "category", "target", categories=("no", "yes", "maybe"))), gaps=("NA",))
    keras.utils.set_random_seed(1)
    core = keras.Sequential([keras.Input((len(table.feature_slots),)), keras.layers.Dense(3, "softmax")])
    names = tuple(column.name for column in features)
    model = Trained("a model", "", core, Description(names, ("y",), table, False, "multiclass", "mse", ()))
    given = {column.name: np.linspace(-2, 2, 9)[:, np.newaxis] for column in features if column.kind == "number"}
    given["日本"] = np.array([["x"], ["y"], ["z"]] * 3, object)
    given["größe"] = np.array([["2024-05-01T12:30"], ["NA"], ["2024-05-01"]] * 3, object)
    given["round"][4] = np.nan
    exported = WRITERS[format_](model, exportable(model), tmp_path / "model")
    expected = answers_of(exportable(model), given)
    assert set(exported.inputs) == set(names)
    assert len(set(exported.inputs.values())) == len(names)
    assert differences(expected, exported.run, given, ("no", "yes", "maybe")).max() < 1e-6
    assert set(np.asarray(exported.run(given)["label"]).ravel()) <= {"no", "yes", "maybe", b"no", b"yes", b"maybe"}


def test_rows_to_which_keras_gives_no_number_are_left_out_of_the_comparison():
    nan = np.nan
    expected = {"predictions": np.array([[1.0], [nan], [2000.0]])}
    for found, off in (([1, nan, 2000], 0), ([1, 5, 2000.2], 1e-4), ([1.5, 1, 2000], 0.5), ([nan, 1, 2000], np.inf)):
        answers = {"predictions": np.array(found, np.float64)[:, np.newaxis]}
        rows = iter((slice(0, 1), slice(1, None)))
        run = lambda _, answers=answers, rows=rows: {"predictions": answers["predictions"][next(rows)]}  # noqa: E731
        assert differences(expected, run, {}, ()).max() == pytest.approx(off)


def test_a_directory_is_replaced_as_a_whole_and_only_if_it_is_a_savedmodel(tmp_path):
    made, place = tmp_path / "made", tmp_path / "there"
    (made / "variables").mkdir(parents=True)
    (made / "variables" / "one").write_text("new")
    (made / "saved_model.pb").write_text("new")
    place.mkdir()
    (place / "model.keras").write_text("a run's")
    for format_ in WRITERS:
        with pytest.raises(UsageError, match="is a directory that is no SavedModel; name another place"):
            check_free(str(place), format_, overwrite=True)
    (place / "model.keras").rename(place / "saved_model.pb")
    check_free(str(place), "savedmodel", overwrite=True)
    with pytest.raises(UsageError, match="is there already"):
        check_free(str(place), "savedmodel", overwrite=False)
    (tmp_path / "link").symlink_to(place)
    assert put(made, str(tmp_path / "link")) == 6
    assert sorted(path.name for path in place.iterdir()) == ["saved_model.pb", "variables"]
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        put(made, str(tmp_path / "file" / "model"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "made", "there"]
    with pytest.raises(UsageError, match="web servers cannot be written to"):
        check_free("https://host/model.onnx", "onnx", overwrite=False)


# -- whole ways from a table


TASKS = {
    "regression": ("--targets", "price", "--scale", "standard"),
    "binary": ("--targets", "label"),
    "multiclass": ("--targets", "zip", "--features", "age,income,when,city"),
}
OPTIONS = ("--features", "city,zip,age,income,when", "--kinds", "zip=category", "--missing", "indicator")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exports")
    write_table(directory / "a.csv", 2000)
    frame = write_table(directory / "other.csv", 1500, seed=3).with_columns(
        city=polars.col("city").replace("Ulm", "New")
    )
    frame.select(sorted(frame.columns)).write_csv(directory / "b.csv")
    for task, options in TASKS.items():
        trained(directory, task, "--data", "a.csv", *OPTIONS, *options, "--epochs", 3, "--task", task)
    return directory


@pytest.fixture(scope="module")
def frame(place):
    return polars.read_csv(place / "b.csv", schema_overrides={"zip": polars.String})


def exported(directory, *words, code=0):
    done = disttrain(directory, "export", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def in_onnxruntime(path, model, frame):
    session = onnxruntime.InferenceSession(path)
    given = {}
    for name, tensor in raw_inputs(model, frame).items():
        values = np.asarray(tensor)
        given[name] = np.char.decode(values.astype(bytes)).astype(object) if values.dtype == object else values
    wanted = [one.name for one in session.get_outputs()]
    return dict(
        zip(wanted, session.run(wanted, {name: one[:, np.newaxis] for name, one in given.items()}), strict=True)
    )


def in_the_interpreter(path, model, frame):
    runner = tf.lite.Interpreter(model_path=str(path)).get_signature_runner()
    given = {}
    for name, wanted in runner.get_input_details().items():
        column = frame[name]
        if wanted["dtype"] == np.uint8:
            texts = [("" if one is None else one).encode().ljust(40, b"\0") for one in column]
            given[name] = np.array([list(one) for one in texts], np.uint8)
        elif wanted["dtype"] == np.float32:
            given[name] = column.cast(polars.Float32).fill_null(float("nan")).to_numpy()[:, np.newaxis]
        else:
            given[name] = np.array([[("" if one is None else one).encode()] for one in column], object)
    return runner(**given)


def in_tensorflow(path, model, frame):
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    return signature(**{name: tf.reshape(one, (-1, 1)) for name, one in raw_inputs(model, frame).items()})


RUNS = {"savedmodel": in_tensorflow, "onnx": in_onnxruntime, "tflite": in_the_interpreter}


@pytest.mark.slow
@pytest.mark.parametrize("format_", RUNS)
@pytest.mark.parametrize("task", TASKS)
def test_other_rows_get_the_answers_of_keras(place, frame, task, format_):
    """Of a file with unknown texts, gaps, and its columns in another order."""
    told = exported(place, task, "--format", format_)
    assert "Compared with the Keras model on 1,024 of 2,000 rows of a.csv: largest difference " in told
    model = keras.saving.load_model(place / task / "model.keras")
    expected = model.predict(raw_inputs(model, frame), batch_size=1500, verbose=0)
    found = RUNS[format_](place / task / f"model.{format_}", model, frame)
    if task == "regression":
        np.testing.assert_allclose(np.asarray(found["predictions"]), expected, rtol=1e-5, atol=1e-5)
        return
    np.testing.assert_allclose(np.asarray(found["probabilities"]), expected["probabilities"], atol=1e-5)
    labels = [one.decode() if isinstance(one, bytes) else one for one in np.asarray(found["label"]).ravel()]
    expected_labels = np.char.decode(expected["label"].ravel().astype(bytes))
    assert (np.array(labels) == expected_labels).mean() > 0.999  # ties may fall otherwise


@pytest.mark.slow
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(place, tmp_path):
    done = shutil.ignore_patterns("model.onnx", "model.tflite", "model.savedmodel")
    shutil.copytree(place, tmp_path, ignore=done, dirs_exist_ok=True)
    run = tmp_path / "binary"
    assert "--format is required" in exported(tmp_path, "binary", code=2)
    assert "is a name for --format tflite, not onnx" in exported(
        tmp_path, "binary", "--format", "onnx", "--output", "m.tflite", code=2
    )
    (tmp_path / "c.csv").write_text("city,zip,age,incom,when\nRome,01000,1,2,2024-01-01\n")
    assert "it lacks the feature 'income' (is it 'incom'?)" in exported(
        tmp_path, "binary", "c.csv", "--format", "onnx", code=2
    )
    (tmp_path / "a.csv").rename(tmp_path / "moved.csv")
    assert "a.csv: no such file; the model was trained on it: name other rows" in exported(
        tmp_path, "binary", "--format", "onnx", code=2
    )
    assert not (run / "model.onnx").exists()
    newest = sorted((run / "checkpoints").iterdir())[-1]
    assert "rows of moved.csv" in exported(tmp_path, newest, "moved.csv", "--format", "onnx", "--output", "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    assert "m.onnx: is there already" in exported(
        tmp_path, "binary", "moved.csv", "--format", "onnx", "--output", "m.onnx", code=2
    )
    assert (tmp_path / "m.onnx").read_bytes() == before


# -- from Python


def test_rows_that_cannot_be_read_are_left_out(tmp_path, capsys):
    lines = [f"{number},{number}" for number in range(100)]
    lines[40] = "1,2,3"
    (tmp_path / "bad.csv").write_text("x,y\n" + "\n".join(lines) + "\n")
    for data, told in (("bad.csv", "on 99 of 100 rows of"), ("one.csv", "on 1 of 1 rows of")):
        (tmp_path / "one.csv").write_text("x,y\n1,2\n")
        library.export(network(), tmp_path / data, output=tmp_path / "m.tflite", format="tflite", overwrite=True)
        assert told in capsys.readouterr().out


@pytest.fixture
def numbers(tmp_path):
    x = np.linspace(-2, 2, 300)[:, np.newaxis]
    return write_csv(tmp_path / "n.csv", x, 2 * x)


def network(*layers):
    return keras.Sequential([keras.Input((1,)), *layers, keras.layers.Dense(1)])


class Restless(keras.layers.Layer):
    """Gives other numbers each time."""

    def call(self, rows):
        return rows + tf.random.uniform(tf.shape(rows))


class Unusual(keras.layers.Layer):
    """Does what ONNX and TensorFlow Lite cannot."""

    def call(self, rows):
        return tf.math.igamma(tf.abs(rows) + 1.0, tf.abs(rows))


@pytest.mark.parametrize("format_", RUNS)
def test_a_program_exports_its_own_model_to_a_store(numbers, format_):
    output = f"memory://exports/{format_}/model"
    told = functools.partial(library.export, network(), numbers, output=output, format=format_, features=["x0"])
    assert told(target="y0") == output
    with pytest.raises(UsageError, match="is there already; name another place or add --overwrite"):
        told(target="y0")
    assert told(target="y0", overwrite=True) == output


def test_models_that_another_format_does_not_hold(numbers, tmp_path):
    output = tmp_path / "model"
    for layer, format_, message in (
        (Restless(), "savedmodel", r"other answers than the Keras model, off by .* in .*n.csv, line \d+; nothing was"),
        (Unusual(), "onnx", "ONNX has nothing for TensorFlow's operation Igamma"),
        (Unusual(), "tflite", "TensorFlow Lite has nothing for the operations Igamma"),
    ):
        with pytest.raises(UsageError, match=message):
            library.export(network(layer), numbers, output=output, format=format_)
        assert not output.exists()
    hashed = in_memory(network(), table_of(["user"]))
    for write in (write_onnx, write_tflite):
        with pytest.raises(UsageError, match=r"'user' is a hashed category, and .* cannot hash texts"):
            write(hashed, exportable(hashed), output)
    wide = write_csv(tmp_path / "wide.csv", np.zeros((3, 3)), np.zeros((3, 1)))
    with pytest.raises(UsageError, match=r"takes 1 features, and 3 columns are chosen \(x0, x1, x2\)"):
        library.export(network(), wide, output=output, format="onnx")
    with pytest.raises(UsageError, match=r"takes \(None, 2, 3\), expected \[rows, features\]"):
        library.export(
            keras.Sequential([keras.Input((2, 3)), keras.layers.Flatten()]), numbers, output=output, format="onnx"
        )
    with pytest.raises(UsageError, match="a Keras model, which is no file, needs data and output"):
        library.export(network(), format="onnx")


def test_one_process_exports(numbers, tmp_path, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")  # in a program on several workers, one of which calls it
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    output = tmp_path / "model.onnx"
    assert library.export(network(), numbers, output=output, format="onnx") == str(output)
    done = disttrain(tmp_path, "export", "run", "--format", "onnx", OMPI_COMM_WORLD_RANK="0")
    assert done.returncode == 2
    assert "one process writes a model; start it without horovodrun or mpirun" in done.stderr


def test_packages_that_are_not_installed_are_named(numbers, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "disttrain.scoring.exporting.onnx_model")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UsageError, match=r"--format onnx needs tf2onnx: pip install 'disttrain\[onnx\]'"):
        library.export(network(), numbers, output=tmp_path / "model.onnx", format="onnx")


def test_half_precision_of_the_training_is_full_in_other_programs(numbers, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(keras.layers.Dense(16, "relu"))
    finally:
        keras.config.set_dtype_policy("float32")
    output = tmp_path / "model.onnx"
    library.export(model, numbers, output=output, format="onnx")
    assert [layer.compute_dtype for layer in model.layers] == ["float16", "float16"]
    x = np.array([[0.1]], np.float32)
    (found,) = onnxruntime.InferenceSession(output).run(None, {"features": x})
    weights = [one.numpy() for one in model.weights]
    expected = np.maximum(x @ weights[0] + weights[1], 0) @ weights[2] + weights[3]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
