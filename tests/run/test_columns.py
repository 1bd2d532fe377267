"""Tables with text, gaps, dates, scales and weights: trained as plain Keras trains them, by any number of workers."""

import json

import keras
import numpy as np
import polars
import pytest
from command import disttrain, history, trained, weights
from tables import MODELS, raw_inputs, write_table

from disttrain.data.sharding import Sharding

ROWS, SHARDS, BATCH, EPOCHS = 1201, 6, 20, 2
COLUMNS = ("--features", "city,zip,age,income,when", "--targets", "price")
ASKED = ("--missing", "median", "--scale", "standard", "--kinds", "zip=category", "--weight", "weight")
STEPS = ("--num-shards", SHARDS, "--batch-size", BATCH)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("columns")
    write_table(directory / "a.csv", ROWS)
    write_table(directory / "b.csv", 307, seed=1)
    (directory / "own_models.py").write_text(MODELS)
    return directory


@pytest.fixture(scope="module")
def frame(place):
    return polars.read_csv(place / "a.csv", schema_overrides={"zip": polars.String})


class Described:
    """What the own model's function needs to know of a column."""

    def __init__(self, name, words=None):
        self.name, self.slots = name, (name,)
        self.kind = "number" if words is None else "category"
        self.num_tokens = 0 if words is None else len(words) + 1


def keras_columns(frame):
    """Returns what Keras's own layers make of the columns, as arrays, and the columns' descriptions."""
    found, described = {}, []
    for name in ("city", "zip"):
        texts = frame[name].fill_null("")
        counts = texts.filter(texts != "").value_counts().sort(["count", name], descending=[True, False])
        words = [*counts[name].to_list(), *([""] if (texts == "").any() else [])]
        lookup = keras.layers.StringLookup(vocabulary=words, mask_token=None)
        found[name] = np.asarray(lookup(keras.ops.convert_to_tensor(texts.to_list(), "string")))[:, None]
        described.append(Described(name, words))
    when = frame["when"].str.to_datetime("%Y-%m-%dT%H:%M:%S").dt.epoch("s").cast(polars.Float64)
    age = frame["age"].fill_null(frame["age"].median()).cast(polars.Float64)
    for name, values, known in (
        ("age", age, frame["age"].drop_nulls()), ("income", frame["income"], frame["income"]),
        ("when", when.fill_null(when.median()), when.drop_nulls()),
    ):  # fmt: skip
        mean, variance = known.mean(), known.std(ddof=0) ** 2
        layer = keras.layers.Normalization(mean=np.float64(mean), variance=np.float64(variance), dtype="float64")
        found[name] = np.asarray(layer(values.to_numpy()[:, None])).astype(np.float32)
        described.append(Described(name))
    return found, described


def trained_by_keras(frame, place, epochs):
    """Returns each epoch's loss and the model, from Keras alone on the same global batches.

    The optimizer is SGD: Keras's Adam does not add up the gradients of rows with the same category before it squares
    them, which an all-reduce has to.
    """
    namespace = {}
    exec((place / "own_models.py").read_text(), namespace)
    columns, described = keras_columns(frame)
    model = namespace["by_name"](type("Table", (), {"features": described}))
    target, weight = frame["price"].to_numpy()[:, None].astype(np.float32), frame["weight"].to_numpy()
    sharding, losses = Sharding(ROWS, SHARDS, BATCH), []
    for _ in range(epochs):
        total = 0.0
        for step in range(sharding.num_steps):
            own = [sharding.shard_step(shard, step) for shard in range(SHARDS)]
            rows = np.concatenate([np.arange(part.start, part.stop) for part in own])
            batch = {name: values[rows] for name, values in columns.items()}
            loss = model.train_on_batch(batch, target[rows], sample_weight=weight[rows].astype(np.float32))
            total += float(np.ravel(loss)[0]) * len(rows)
            model.reset_metrics()
        losses.append(total / ROWS)
    return losses, model


@pytest.mark.slow
def test_any_number_of_workers_computes_what_plain_keras_does_with_its_own_layers(place, frame):
    losses, model = trained_by_keras(frame, place, EPOCHS)
    own = ("--data", "a.csv", "--model", "own_models:by_name", *COLUMNS, *ASKED, *STEPS, "--epochs", EPOCHS)
    runs = [trained(place, f"own{n}", *own, processes=n) for n in (2, 3)]
    runs.append(trained(place, "own1", *own))
    runs.append(trained(place, "mirrored", *own, "--backend", "mirrored", "--devices", 2))
    for run in runs:
        np.testing.assert_allclose(history(run)["loss"], losses, rtol=1e-5)
        for mine, expected in zip(weights(run), model.get_weights(), strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        ("--missing", "median,age=indicator", "--kinds", "when=time:hour,weekday,month,zip=hash:50,city=hash:9"),
        (
            "--missing",
            "error,age=41,when=mean",
            "--kinds",
            "zip=category",
            "--scale",
            "minmax",
            "--max-categories",
            "3",
        ),
        ("--missing", "drop,city=Rome", "--loss", "huber", "--metrics", "mape,mae", "--hidden", "5"),
    ],
)
def test_the_saved_model_computes_the_validation_loss_from_raw_columns(place, asked):
    frame = polars.read_csv(place / "b.csv", schema_overrides={"zip": polars.String})
    files = ("--data", "a.csv", "--validation-data", "b.csv")
    run = trained(place, f"raw{abs(hash(asked))}", *files, *COLUMNS, *asked, "--epochs", 1, "--weight", "weight")
    model = keras.saving.load_model(run / "model.keras")
    assert model.get_layer("core").trainable_variables
    answers = np.asarray(model(raw_inputs(model, frame)))[:, 0]
    weight = frame["weight"].to_numpy()
    if asked[1].startswith("drop"):
        weight = np.where(frame["age"].is_null() | frame["when"].is_null(), 0, weight)
    errors = np.nan_to_num(np.abs(answers - frame["price"].to_numpy()))
    if "huber" in asked:
        errors = np.where(errors <= 1, errors**2 / 2, errors - 0.5)
    batches = [slice(start, start + 250) for start in range(0, len(frame), 250)]
    means = [np.average(errors[rows], weights=weight[rows]) * len(errors[rows]) for rows in batches]
    assert history(run)["val_loss"][-1] == pytest.approx(sum(means) / len(frame), rel=1e-5)


@pytest.mark.slow
def test_text_labels_become_probabilities_and_labels_again(place):
    frame = polars.read_csv(place / "a.csv")
    columns = ("--data", "a.csv", "--features", "city,age,income,when", "--targets", "label", "--missing", "mean")
    balanced = trained(place, "labels", *columns, "--epochs", 60, "--class-weights", "dear=3")
    model = keras.saving.load_model(balanced / "model.keras")
    answers = model(raw_inputs(model, frame))
    labels = np.asarray(answers["label"]).astype(str)
    assert set(labels) <= {"dear", "cheap"}
    assert (labels == np.array(["cheap", "dear"])[np.argmax(answers["probabilities"], axis=-1)]).all()
    assert (labels == frame["label"].to_numpy()).mean() > 0.7
    assert np.asarray(answers["probabilities"]).shape == (ROWS, 2)
    (place / "weighed.csv").write_text(
        frame.with_columns(weight=polars.when(polars.col("label") == "dear").then(3.0).otherwise(1.0)).write_csv()
    )
    weighed = trained(place, "weighed", "--data", "weighed.csv", *columns[2:], "--epochs", 60, "--weight", "weight")
    assert history(weighed)["loss"] == history(balanced)["loss"]


@pytest.mark.slow
def test_the_sorted_job_as_its_users_write_it_is_learnt(tmp_path):
    last = 2_000_000
    (tmp_path / "job.csv").write_text("".join(f"{number},{number}\n" for number in range(1, last + 1)))
    run = trained(tmp_path, "run", "--data", "job.csv", "--header", "no", "--shuffle", "global")
    model = keras.saving.load_model(run / "model.keras")
    asked = np.array([1000, 1_000_000, 1_999_999])
    errors = np.abs(model.predict({"0": asked}, verbose=0)[:, 0] / asked - 1)
    assert (errors <= [0.01, 0.001, 0.001]).all()


def test_inspect_says_what_would_be_done_and_how_to_train(place):
    done = disttrain(place, "inspect", "a.csv", "--targets", "price", "--kinds", "when=time:hour")
    assert done.returncode == 0, done.stderr
    for words in ("age", "gaps become", "always holds the same: left out", "6 categories; gaps are a category", "hour"):
        assert words in done.stdout
    assert (
        "To train: python -m disttrain --data a.csv --targets price --kinds when=time:hour --missing median"
        in done.stdout
    )
    plain = json.loads(disttrain(place, "inspect", "a.csv", "--targets", "price", "--json").stdout)
    assert plain["rows"] == ROWS
    kinds = {column["name"]: column["kind"] for column in plain["columns"]}
    assert kinds["city"] == kinds["label"] == "category"
    assert (kinds["when"], kinds["unit"], kinds["note"], kinds["income"]) == ("time", "constant", "text", "number")
    assert "nothing stands in 'age'" in plain["problem"]


@pytest.mark.slow
def test_inspect_of_thousands_of_columns_fits_on_a_few_screens(tmp_path):
    draw = np.random.default_rng(0)
    names = [f"c{number}" for number in range(3000)]
    rows = [",".join(f"{value:.4g}" for value in draw.normal(0, 5, 3000)) for _ in range(40)]
    (tmp_path / "wide.csv").write_text("\n".join([",".join(names), *rows, ""]))
    done = disttrain(tmp_path, "inspect", "wide.csv")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) < 80
    assert "and 2,940 more columns (3,000 number in all); --json has them" in done.stdout
    assert len(json.loads(disttrain(tmp_path, "inspect", "wide.csv", "--json").stdout)["columns"]) == 3000
