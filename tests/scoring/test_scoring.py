"""`disttrain evaluate` and `disttrain predict`: every value against Keras in memory, on any number of workers."""

import functools
import json
import os
import re
import signal
import zipfile

import keras
import numpy as np
import polars
import pytest
from command import disttrain, history, trained
from faults import Run
from sklearn import metrics as figures
from tables import MODELS, raw_inputs, write_table

ROWS = 3001
COLUMNS = ("--features", "city,zip,age,income,when", "--kinds", "zip=category", "--missing", "median")
TASKS = {
    "regression": ("--targets", "price", "--scale", "standard", "--metrics", "mae,mse"),
    "binary": ("--targets", "label"),
    "multiclass": ("--targets", "zip", "--features", "age,income,when,price"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("scoring")
    write_table(directory / "a.csv", 2000)
    frame = write_table(directory / "other.csv", ROWS, seed=3)
    frame.select(sorted(frame.columns)).write_csv(directory / "b.csv")  # other rows, and the columns in another order
    for task, options in TASKS.items():
        trained(directory, task, "--data", "a.csv", *COLUMNS, *options, "--epochs", 8, "--task", task)
    (directory / "own_models.py").write_text(MODELS)
    return directory


@pytest.fixture(scope="module")
def frame(place):
    return polars.read_csv(place / "b.csv", schema_overrides={"zip": polars.String})


@pytest.fixture(scope="module")
def in_memory(place, frame):
    """Returns what the saved model of a run gives for all rows at once, in Keras."""

    @functools.cache
    def predicted(task):
        model = keras.saving.load_model(place / task / "model.keras")
        return model.predict(raw_inputs(model, frame), batch_size=512, verbose=0)

    return predicted


def run(directory, *words, code=0, processes=None, **extra):
    done = disttrain(directory, *words, processes=processes, **extra)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def evaluated(place, model, data="b.csv", processes=None, *, trust=False):
    """What an evaluation finds, as JSON; a launcher puts the rank before what it passes on."""
    words = ["--trust-model"] if trust else []
    told = run(place, "evaluate", model, data, "--json", *words, processes=processes)
    return json.loads(re.sub(r"\[\d+\]<stdout>:", "", told))


WORKERS = [None, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]


TEXTS = {"zip": polars.String, "predicted_zip": polars.String}
# workers -> task, answer, format
ASKED = {
    None: (("regression", "label", "csv"), ("binary", "probabilities", "parquet"), ("multiclass", "label", "csv")),
    2: (("multiclass", "probabilities", "csv"), ("binary", "label", "csv")),
    4: (("regression", "label", "parquet"),),
}


@pytest.mark.parametrize("processes", WORKERS)
def test_predictions_are_those_of_keras_in_the_order_of_the_rows(place, frame, in_memory, processes):
    name = f"of-{processes}"
    for task, answer, suffix in ASKED[processes]:
        output = f"{name}-{task}-{answer}.{suffix}"
        words = ("predict", task, "b.csv", "--output", output, "--answer", answer, "--keep-columns", "note,city,zip")
        run(place, *words, processes=processes)
        read = polars.read_csv if suffix == "csv" else polars.read_parquet
        found = read(place / output, **({"schema_overrides": TEXTS} if suffix == "csv" else {}))
        assert found["note"].to_list() == frame["note"].to_list()
        assert found["city"].fill_null("").to_list() == frame["city"].fill_null("").to_list()
        expected = in_memory(task)
        target = {"regression": "price", "binary": "label", "multiclass": "zip"}[task]
        if task == "regression":
            np.testing.assert_allclose(found[target], expected[:, 0], rtol=1e-5, atol=1e-5)
        elif answer == "label":
            named = f"predicted_{target}" if target == "zip" else target
            expected_labels = np.char.decode(expected["label"].ravel().astype(bytes))
            assert (found[named].to_numpy() == expected_labels).mean() > 0.999  # ties may fall otherwise
        else:
            columns = [name for name in found.columns if name.startswith(f"{target}=")]
            np.testing.assert_allclose(found.select(columns).to_numpy(), expected["probabilities"], atol=1e-5)
        assert not list(place.glob("*.parts"))


@pytest.mark.parametrize("processes", WORKERS[:2])
def test_an_evaluation_gives_what_scikit_learn_computes_of_keras_answers(place, frame, in_memory, processes):
    told = evaluated(place, "regression", processes=processes)
    answers = in_memory("regression")[:, 0]
    (found,) = told["numbers"]
    assert found["mae"] == pytest.approx(figures.mean_absolute_error(frame["price"], answers), rel=1e-4)
    assert found["rmse"] == pytest.approx(figures.root_mean_squared_error(frame["price"], answers), rel=1e-4)
    assert found["r2"] == pytest.approx(figures.r2_score(frame["price"], answers), abs=1e-4)
    assert told["values"]["mae"] == pytest.approx(found["mae"], rel=1e-4)


@pytest.mark.slow
def test_what_an_evaluation_finds_is_what_a_validation_finds(place):
    options = ("--data", "a.csv", *COLUMNS, *TASKS["binary"], "--epochs", 2, "--validation-data", "b.csv")
    validated = trained(place, "validated", *options)
    told = evaluated(place, "validated")
    for name in ("loss", "accuracy"):
        assert told["values"][name] == pytest.approx(history(validated)[f"val_{name}"][-1], rel=1e-4)
    newest = sorted((validated / "checkpoints").iterdir())[-1]
    again = evaluated(place, newest)
    assert again["values"] == pytest.approx(told["values"], rel=1e-6)


@pytest.mark.slow
def test_a_classification_is_told_by_label(place, frame, in_memory):
    told = evaluated(place, "binary")
    answers = in_memory("binary")
    words = np.char.decode(answers["label"].ravel().astype(bytes))
    labels = ["cheap", "dear"]
    np.testing.assert_allclose(
        told["classes"]["confusion"], figures.confusion_matrix(frame["label"], words, labels=labels), atol=3
    )
    area = figures.roc_auc_score(frame["label"] == "dear", answers["probabilities"][:, 1])
    assert told["classes"]["auc"] == pytest.approx(area, abs=1e-3)
    precision, recall, f1, _ = figures.precision_recall_fscore_support(frame["label"], words, labels=labels)
    for number, one in enumerate(told["classes"]["classes"]):
        assert one["label"] == labels[number]
        assert (one["precision"], one["recall"], one["f1"]) == pytest.approx(
            (precision[number], recall[number], f1[number]), abs=2e-3
        )
    shown = run(place, "evaluate", "binary", "b.csv")
    titles = ["label", "rows", "precision", "recall", "f1", "as", "cheap", "as", "dear"]
    assert titles in [line.split() for line in shown.splitlines()]


REFUSED = {
    "no such model": (("nowhere", "b.csv"), 2, "nowhere: no such file or directory"),
    "no model yet": (("unfinished", "b.csv"), 2, "has no model.keras; give a run's directory"),
    "missing columns": (
        ("regression", "short.csv"),
        2,
        "lacks the feature 'income' (is it 'incomes'?), the feature 'when'",
    ),
    "a text among numbers": (
        ("regression", "text.csv"),
        3,
        "text.csv, line 3: column 'age' holds 'old', expected a number",
    ),
    "another format": (("regression", "b.csv", "--output", "x.txt"), 2, "must end in .csv or .parquet"),
    "an output that is there": (("regression", "b.csv", "--output", "b.csv"), 2, "add --overwrite"),
    "no such kept column": (("regression", "b.csv", "--keep-columns", "nope"), 2, "has no such column; it has"),
    "no model file": (("b.csv", "b.csv"), 2, "b.csv: no such file or directory"),
    "a foreign model": (("plain.keras", "b.csv"), 3, "does not tell which columns it takes"),
    "no place": (("regression", "b.csv", "--output", "b.csv/x.csv"), 2, "b.csv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_what_would(place, case):
    (place / "unfinished").mkdir(exist_ok=True)
    (place / "short.csv").write_text("city,zip,age,incomes\nRome,01000,3,4\n")
    (place / "text.csv").write_text("city,zip,age,income,when\nRome,01000,3,4,\nRome,01000,old,4,\n")
    with (
        zipfile.ZipFile(place / "regression" / "model.keras") as own,
        zipfile.ZipFile(place / "plain.keras", "w") as bare,
    ):
        for name in set(own.namelist()) - {"disttrain.json"}:
            bare.writestr(name, own.read(name))
    words, code, says = REFUSED[case]
    output = () if "--output" in words else ("--output", "refused.csv")
    assert says in run(place, "predict", *words, *output, code=code)
    assert not (place / "refused.csv").exists()


@pytest.mark.slow
def test_a_model_that_holds_code_is_loaded_only_if_it_is_trusted(place):
    (place / "code.py").write_text(
        "import keras\n\ndef lambdas(num_features):\n    return keras.Sequential([keras.Input((num_features,)), "
        "keras.layers.Dense(1), keras.layers.Lambda(lambda x: 2 * x)])\n"
    )
    (place / "n.csv").write_text("x,y\n" + "".join(f"{n / 100},{n / 50}\n" for n in range(100)))
    trained(place, "code", "--data", "n.csv", "--model", "code:lambdas", "--epochs", 1)
    for command, more in (("evaluate", ()), ("predict", ("--output", "code.csv"))):
        assert "holds code of its own (such as a Lambda layer), which would run; add --trust-model" in run(
            place, command, "code", "n.csv", *more, code=2
        )
        run(place, command, "code", "n.csv", *more, "--trust-model")


@pytest.mark.slow
def test_gaps_of_columns_whose_gaps_were_dropped_have_no_prediction(place):
    (place / "gaps.csv").write_text("x,y\n" + "".join(f"{n / 100},{n / 50}\n" for n in range(100)) + ",1\n")
    trained(place, "gaps", "--data", "gaps.csv", "--missing", "drop", "--epochs", 1)
    run(place, "predict", "gaps", "gaps.csv", "--output", "gaps-out.csv", "--keep-columns", "x")
    lines = (place / "gaps-out.csv").read_text().splitlines()
    assert (len(lines), lines[0], lines[-1]) == (102, "x,y", ",")
    assert all(line.count(",") == 1 and not line.endswith(",") for line in lines[1:-1])
    told = evaluated(place, "gaps", "gaps.csv")
    assert (told["rows"], told["weightless"]) == (101, 1)


@pytest.mark.slow
def test_labels_that_are_numbers_and_several_files_and_a_model_by_name(place, in_memory):
    rows = [(n / 300, n % 3) for n in range(300)]
    for part in range(3):
        (place / f"part-{part}.csv").write_text(
            "x,y\n" + "".join(f"{x},{y}\n" for x, y in rows[part * 100 : part * 100 + 100])
        )
    trained(place, "numbers", "--data", "part-*.csv", "--loss", "sparse_categorical_crossentropy", "--epochs", 1)
    run(
        place,
        "predict",
        "numbers",
        "part-0.csv",
        "part-1.csv",
        "part-2.csv",
        "--output",
        "numbers.csv",
        "--keep-columns",
        "x",
    )
    found = polars.read_csv(place / "numbers.csv")
    assert found["x"].to_list() == pytest.approx([x for x, _ in rows])
    assert set(found["y"].to_list()) <= {0, 1, 2}
    assert len(evaluated(place, "numbers", "part-*.csv")["classes"]["classes"]) == 3
    own = ("--data", "a.csv", *COLUMNS, "--targets", "price", "--model", "own_models:by_name", "--epochs", 1)
    trained(place, "own", *own)
    run(place, "predict", "own", "b.csv", "--output", "own.csv")
    np.testing.assert_allclose(
        polars.read_csv(place / "own.csv")["price"], in_memory("own")[:, 0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
def test_a_prediction_that_is_killed_goes_on_and_ends_as_one_that_was_not(place, tmp_path):
    (tmp_path / "long.csv").write_text(
        "x,y\n" + "".join(f"{n % 1000 / 1000},{n % 1000 / 500}\n" for n in range(3_000_000))
    )
    trained(tmp_path, "line", "--data", "long.csv", "--epochs", 1)
    words = ("predict", "line", "long.csv", "--keep-columns", "x")
    run(tmp_path, *words, "--output", "whole.csv")
    killed = Run(tmp_path, *words, "--output", "killed.csv", cold=True)
    killed.wait_until(lambda: len(list(tmp_path.glob("killed.csv.parts/part-*.csv"))) > 2, "some parts", poll_s=0.01)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.close()
    assert not (tmp_path / "killed.csv").exists()
    told = run(tmp_path, *words, "--output", "killed.csv", processes=2)
    assert "Going on: " in told
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.slow
def test_models_and_outputs_may_lie_in_a_store(place, tmp_path, s3):
    model = s3.put("scoring/run/model.keras", (place / "regression" / "model.keras").read_bytes())
    data = s3.put("scoring/b.csv", (place / "b.csv").read_bytes())
    output = f"{data}-predicted.csv"
    run(place, "predict", model.removesuffix("/model.keras"), data, "--output", output, **s3.environ)
    run(place, "predict", "regression", "b.csv", "--output", "local.csv")
    s3.fetch("scoring", tmp_path / "fetched")
    assert (tmp_path / "fetched" / "b.csv-predicted.csv").read_bytes() == (place / "local.csv").read_bytes()


OWN = """
import keras

def cubed(targets, outputs):
    return keras.ops.mean(keras.ops.abs(targets - outputs) ** 3, axis=-1)

def logits(num_features):
    model = keras.Sequential([keras.Input((num_features,)), keras.layers.Dense(1)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model
"""


@pytest.mark.slow
def test_models_with_losses_of_ones_own_are_loaded_by_keras_and_their_code_is_left_out_unless_trusted(place, tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes((place / name).read_bytes())
    (tmp_path / "own.py").write_text(OWN)
    common = ("--data", "a.csv", *COLUMNS, "--targets", "price", "--weight", "weight", "--epochs", 1)
    trained(tmp_path, "own", *common, "--loss", "own:cubed", "--metrics", "own:cubed,mae,R2Score")
    keras.saving.load_model(tmp_path / "own" / "model.keras")
    run(tmp_path, "predict", "own", "b.csv", "--output", "p.csv")
    told = run(tmp_path, "evaluate", "own", "b.csv")
    assert "Left out, as the model is not trusted (--trust-model): own:cubed, own:cubed" in told
    assert "mae " in told
    trusted = evaluated(tmp_path, "own", "b.csv", trust=True)
    assert trusted["values"]["loss"] == pytest.approx(trusted["values"]["cubed"], rel=1e-5)
    newest = sorted((tmp_path / "own" / "checkpoints").iterdir())[-1]
    assert "its model needs own:cubed, which would be called" in run(tmp_path, "evaluate", newest, "b.csv", code=2)
    again = evaluated(tmp_path, newest, "b.csv", trust=True)
    assert again["values"] == pytest.approx(trusted["values"], rel=1e-6)


@pytest.mark.slow
def test_two_workers_evaluate_a_file_with_rows_for_one(place, tmp_path):
    """And metrics that make their variables of the first rows."""
    rows = "".join(f"{n / 50},{n / 25}\n" for n in range(50))
    (tmp_path / "small.csv").write_text(f"x,y\n{rows}")
    trained(tmp_path, "small", "--data", "small.csv", "--metrics", "R2Score,mae", "--epochs", 1)
    both, alone = (evaluated(tmp_path, "small", "small.csv", processes=n) for n in (2, None))
    assert both["values"] == pytest.approx(alone["values"], rel=1e-6)
    run(tmp_path, "predict", "small", "small.csv", "--output", "small-out.csv", processes=2)
    assert (tmp_path / "small-out.csv").read_text().count("\n") == 51


@pytest.mark.slow
def test_odd_files_names_and_labels(tmp_path):
    draw = np.random.default_rng(4)
    x = draw.uniform(-1, 1, 300)
    lines = [f"{one:.4f};{10 + one:.2f};{'yes' if one > 0 else 'no'}".replace(".", ",") for one in x]
    (tmp_path / "german.csv").write_text("core;kept;y\n" + "\n".join(lines) + "\n")
    how = ("--decimal", ",")
    options = ("--data", "german.csv", *how, "--features", "core", "--loss", "sparse_categorical_crossentropy")
    trained(tmp_path, "german", *options, "--epochs", 20)
    told = json.loads(run(tmp_path, "evaluate", "german", "german.csv", *how, "--json"))
    right = sum(one["recall"] * one["rows"] for one in told["classes"]["classes"]) / 300
    assert told["values"]["accuracy"] == pytest.approx(right)
    assert right > 0.9
    run(tmp_path, "predict", "german", "--output", "kept.csv", "--keep-columns", "kept,y", *how, "german.csv")
    found = (tmp_path / "kept.csv").read_text().splitlines()
    assert found[0] == "kept,y,predicted_y"
    assert [line.rpartition('",')[0].strip('"') for line in found[1:]] == [line.split(";")[1] for line in lines]
    (tmp_path / "other.csv").write_text("core;kept;y\n0,5;1;maybe\n")
    assert "other.csv, line 2: column 'y' holds 'maybe'" in run(
        tmp_path, "evaluate", "german", "other.csv", *how, code=3
    )


@pytest.mark.slow
def test_the_importance_of_features_is_how_much_the_loss_rises_without_them(tmp_path):
    draw = np.random.default_rng(6)
    x, noise = draw.normal(size=(4000, 3)), draw.normal(size=4000)
    y = 3 * x[:, 0] + x[:, 1] + 0.1 * noise
    words = draw.choice(["a", "b"], 4000)
    lines = [f"{a:.4f},{b:.4f},{c:.4f},{word},{d:.4f}" for (a, b, c), word, d in zip(x, words, y, strict=True)]
    (tmp_path / "i.csv").write_text("much,some,none,word,y\n" + "\n".join(lines) + "\n")
    options = ("--data", "i.csv", "--loss", "mse", "--metrics", "mae", "--batch-size", 20, "--epochs", 8)
    trained(tmp_path, "i", *options)
    told = run(tmp_path, "evaluate", "i", "i.csv", "--importance")
    assert "Permutation importance: 5 forward passes over the rows instead of 1" in told
    found = json.loads(run(tmp_path, "evaluate", "i", "i.csv", "--importance", "--json"))
    rises = {one["feature"]: one["increase"] for one in found["importance"]}
    assert list(rises)[:2] == ["much", "some"]
    # A permuted feature adds twice its share of the target's variance to the mean squared error.
    assert rises["much"] == pytest.approx(18, rel=0.15)
    assert rises["some"] == pytest.approx(2, rel=0.2)
    assert abs(rises["none"]) < 0.1
    assert abs(rises["word"]) < 0.1
    assert found["importance"][0]["loss"] == pytest.approx(found["values"]["loss"] + rises["much"])
