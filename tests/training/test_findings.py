"""What makes a run's result worthless is reported once, with a remedy; losses that take labels get a fitting layer."""

import keras
import numpy as np
import pytest
from command import disttrain, history, trained, weights, write_csv

from disttrain.training.constant import MAX_SAMPLED, TargetSample, best_constant

MODELS = """
import keras
layers = keras.layers

def compiled(*stack, loss="mse", metrics=(), width=2, rate=0.01):
    model = keras.Sequential([keras.Input((width,)), *stack])
    model.compile(keras.optimizers.Adam(rate), loss=loss, metrics=list(metrics))
    return model

def classifier():
    keras.utils.set_random_seed(7)
    stack = layers.Dense(8, activation="relu"), layers.Dense(3, activation="softmax")
    return compiled(*stack, loss="sparse_categorical_crossentropy", metrics=["accuracy"])

def scored():
    score = keras.metrics.F1Score(threshold=0.5)
    return compiled(layers.Dense(1, activation="sigmoid"), loss="binary_crossentropy", metrics=[score])

def of_two_classes():
    return compiled(layers.Dense(2, activation="softmax"), loss="sparse_categorical_crossentropy")

def looks_up():
    return compiled(layers.Embedding(20, 4), layers.Flatten(), layers.Dense(1), width=1)

def looks_up_inside():
    import tensorflow as tf
    table = tf.Variable(tf.ones((20, 1)), trainable=False)

    class Inside(layers.Layer):
        @tf.function
        def call(self, x):
            return tf.gather(table, tf.cast(x[:, 0], tf.int32))

    return compiled(Inside(), layers.Dense(1), width=1)

def two_outputs():
    x = keras.Input((2,))
    model = keras.Model(x, [layers.Dense(1)(x), layers.Dense(1)(x)])
    model.compile(loss="mse")
    return model

def too_wide():
    return compiled(layers.Dense(2))

def frozen():
    model = compiled(layers.Dense(1, use_bias=False))
    model.compile(keras.optimizers.SGD(1e-30), loss="mse")
    return model

def logarithm():
    return compiled(layers.Dense(1, activation="sigmoid"), loss="poisson")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("findings")
    (place / "own_models.py").write_text(MODELS)
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 2)).astype(np.float32)
    label = (x[:, :1] + x[:, 1:] > 0).astype(np.float32) + (x[:, 1:] > 1)
    write_csv(place / "classes.csv", x, label)
    write_csv(place / "shares.csv", x, label > 0)
    write_csv(place / "one_hot.csv", x, np.eye(3)[label[:, 0].astype(int)])
    write_csv(place / "slow.csv", x, x[:, :1])
    ids = (np.arange(700) % 20).astype(np.float32)
    ids[500] = 25
    write_csv(place / "ids.csv", ids[:, None], np.ones((700, 1)))
    numbers = np.arange(1, 2_000_001)
    with (place / "literal.csv").open("w") as stream:
        stream.write("x,y\n" + "\n".join(f"{number},{number}" for number in numbers.tolist()) + "\n")
    return place


def run(place, *arguments, **options):
    return disttrain(place, *arguments, "--output", f"run-{np.random.default_rng().integers(1 << 60)}", **options)


@pytest.mark.slow
def test_the_job_as_its_users_write_it_learns_nothing_unscaled_and_says_so(place):
    done = run(place, "--data", "literal.csv", "--epochs", 2, "--scale", "none")
    assert done.returncode == 0, done.stderr
    for said in (
        "Warning: Layer 'dense_1': none of its units is active for any of 250 rows; scale the columns",
        "Warning: The model's output is the same, ",
        "Warning: The loss of epoch 1, ",
        "is above that of a constant, 500007 (always answering the ",
    ):
        assert done.stdout.count(said) == 1, done.stdout
    assert "Done: loss 1e+06 (best constant answer: 5e+05)" in done.stdout


@pytest.mark.slow
def test_a_run_that_learns_is_warned_of_nothing_and_shows_the_constant_again_when_it_goes_on(place):
    for epochs in (4, 5):
        done = disttrain(place, "--data", "slow.csv", "--epochs", epochs, "--learning-rate", 0.05, "--output", "learns")
        assert "(best constant answer: " in done.stdout.splitlines()[-2], done.stdout
    assert "Warning" not in done.stdout  # in the fifth epoch alone


@pytest.mark.slow
def test_weights_that_no_step_changes_are_warned_of(place):
    done = run(place, "--data", "slow.csv", "--model", "own_models:frozen", "--epochs", 3)
    assert done.stdout.count("Warning: Epoch 1 changed no weight") == 1
    assert done.stdout.count("is the same as in the epoch before") == 0  # one fault, told once


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "data", "targets", "units", "activation"),
    [
        ("binary_crossentropy", "shares.csv", 1, 1, "sigmoid"),
        ("sparse_categorical_crossentropy", "classes.csv", 1, 3, "softmax"),
        pytest.param("categorical_crossentropy", "one_hot.csv", 3, 3, "softmax", marks=pytest.mark.slow),
        pytest.param("poisson", "classes.csv", 1, 1, "softplus", marks=pytest.mark.slow),
    ],
)
def test_the_head_follows_the_loss(place, loss, data, targets, units, activation):
    names = ",".join(f"y{number}" for number in range(targets))
    name = f"head-{loss}"
    path = trained(
        place, name, "--data", data, "--targets", names, "--loss", loss, "--epochs", 6, "--learning-rate", 0.01
    )
    last = keras.saving.load_model(path / "model.keras").layers[-1]
    assert (last.units, last.activation.__name__) == (units, activation)
    if loss != "poisson":
        assert history(path)["accuracy"][-1] > 0.95
    assert (
        (place / name / "history.csv").read_text().startswith("epoch,loss," + ("mse" if loss == "poisson" else "acc"))
    )


REFUSED = [
    # arguments, exit code, what is said
    (("--data", "classes.csv", "--loss", "categorical_crossentropy"), 2, "use --loss sparse_categorical_crossentropy"),
    (("--data", "one_hot.csv", "--targets", "y0,y1,y2", "--loss", "sparse_categorical_crossentropy"), 2, "not 3"),
    (
        ("--data", "classes.csv", "--loss", "binary_crossentropy"),
        3,
        "column 'y0' holds 2, but binary_crossentropy takes",
    ),
    (("--data", "slow.csv", "--loss", "sparse_categorical_crossentropy"), 3, "takes whole numbers from 0 on"),
    (("--data", "slow.csv", "--loss", "circle"), 2, "does not compare columns of numbers"),
    (("--data", "slow.csv", "--metrics", "acuracy"), 2, "did you mean accuracy?"),
    (("--data", "slow.csv", "--metrics", "IoU"), 2, "cannot be made from its name alone"),
    (("--data", "slow.csv", "--model", "own_models:two_outputs"), 2, "the model gives a list, expected one tensor"),
    (("--data", "slow.csv", "--model", "own_models:too_wide"), 2, "gives 2 numbers a row, expected 1"),
    (
        ("--data", "ids.csv", "--model", "own_models:looks_up"),
        3,
        "ids.csv, line 502: column 'x0' holds 25, but the model",
    ),
    (
        ("--data", "ids.csv", "--model", "own_models:looks_up", "--on-nonfinite", "skip"),
        3,
        "line 502: column 'x0' holds 25",
    ),
    (
        ("--data", "ids.csv", "--model", "own_models:looks_up", "--backend", "mirrored", "--devices", 2),
        3,
        "column 'x0' holds 25",
    ),
    (("--data", "ids.csv", "--model", "own_models:looks_up_inside"), 3, "ids.csv, line 502: column 'x0' holds 25"),
    (
        ("--data", "classes.csv", "--model", "own_models:of_two_classes"),
        3,
        "column 'y0' holds 2, but the model takes 0 to 1",
    ),
    (
        ("--data", "shares.csv", "--validation-data", "classes.csv", "--model", "own_models:of_two_classes"),
        3,
        "classes.csv, line ",
    ),
]


QUICK = (2, 9)  # of the table; each takes a process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (number not in QUICK)) for number, case in enumerate(REFUSED)],
)
def test_what_cannot_be_trained_on_is_refused_with_what_to_do(place, arguments, code, said):
    done = run(place, *arguments, "--epochs", 1)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.complaints[-1], done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_index_out_of_range_on_one_of_two_workers_ends_both(place):
    done = run(place, "--data", "ids.csv", "--model", "own_models:looks_up", processes=2)
    assert done.returncode != 0
    assert [said for said in done.complaints if "rank 1: ids.csv, line 502: column 'x0' holds 25" in said], done.stderr


@pytest.mark.slow
def test_a_classifier_of_ones_own_trains_as_in_plain_keras(place):
    path = trained(place, "classifier", "--data", "classes.csv", "--model", "own_models:classifier", "--epochs", 2)
    rows = np.loadtxt(place / "classes.csv", delimiter=",", skiprows=1, dtype=np.float32)
    namespace = {}
    exec(MODELS, namespace)
    model = namespace["classifier"]()
    kept = model.fit(rows[:, :2], rows[:, 2:], batch_size=250, epochs=2, shuffle=False, verbose=0).history
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(history(path)[name], kept[name], rtol=1e-5)
    for own, expected in zip(weights(path), model.get_weights(), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_metric_may_be_a_vector(place):
    done = disttrain(place, "--data", "shares.csv", "--model", "own_models:scored", "--epochs", 2, "--output", "vector")
    assert done.returncode == 0, done.stderr
    assert "· f1_score [0." in done.stdout
    done = disttrain(place, "--data", "shares.csv", "--model", "own_models:scored", "--epochs", 3, "--output", "vector")
    assert done.returncode == 0, done.stderr
    assert len((place / "vector/history.csv").read_text().splitlines()) == 4
    done = run(place, "--data", "shares.csv", "--model", "own_models:scored", "--keep-best", "f1_score")
    assert "--keep-best f1_score: there is no such value" in done.stderr


@pytest.mark.slow
def test_a_run_of_which_every_step_was_left_out_is_no_success(place, tmp_path):
    write_csv(tmp_path / "nan.csv", np.full((500, 1), np.nan), np.ones((500, 1)))
    done = run(tmp_path, "--data", "nan.csv", "--on-nonfinite", "skip", "--batch-size", 50)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "each of its 10 steps was left out" in done.stderr
    assert "mse" not in done.stdout
    assert not list(tmp_path.rglob("model.keras"))


@pytest.mark.slow
def test_a_label_that_the_loss_does_not_take_is_not_the_learning_rates_fault(tmp_path):
    write_csv(tmp_path / "a.csv", np.ones((300, 1)), np.where(np.arange(300)[:, None] == 77, -5.0, 1.0))
    (tmp_path / "own.py").write_text(
        "import keras\nimport tensorflow as tf\n"
        "def build():\n"
        "    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, activation='sigmoid')])\n"
        "    model.compile(loss=lambda y, p: keras.ops.mean((keras.ops.log(y) - p) ** 2))\n"
        "    return model\n"
    )
    done = run(tmp_path, "--data", "a.csv", "--model", "own:build", "--batch-size", 50)
    assert done.returncode == 3, done.stderr
    assert "a.csv, line 79: the loss of the output " in done.stderr
    assert "it accepts no such target" in done.stderr
    assert "--learning-rate" not in done.stderr


@pytest.mark.slow
def test_whole_numbers_that_float32_cannot_hold_are_warned_of_once_a_column_or_refused(tmp_path):
    (tmp_path / "a.csv").write_text("id,t,y\n" + "".join(f"{16777217 + n},{1700000001 + n},1\n" for n in range(100)))
    done = run(tmp_path, "--data", "a.csv", "--epochs", 2, "--scale", "none")
    for said in (
        "a.csv, line 2: column 'id' holds 16777217, which float32 rounds to 16777216",
        "a.csv, line 2: column 't' holds 1700000001, which float32 rounds to 1700000000",
    ):
        assert done.stdout.count(said) == 1, done.stdout
    done = run(tmp_path, "--data", "a.csv", "--strict", "--scale", "none", "--missing", "mean")
    assert (done.returncode, "column 'id' holds 16777217" in done.stderr) == (3, True)


@pytest.mark.slow
def test_what_another_worker_noticed_is_told_by_the_leader(tmp_path):
    (tmp_path / "a.csv").write_text("id,y\n" + "1,1\n" * 900 + "16777217,1\n" * 100)
    done = run(tmp_path, "--data", "a.csv", "--epochs", 2, "--scale", "none", processes=2)
    assert done.stdout.count("a.csv, line 902: column 'id' holds 16777217") == 1, done.stdout


# -- the constant's loss


@pytest.mark.parametrize(
    ("loss", "units", "targets", "expected"),
    [
        ("mae", 1, [0, 0, 0, 8], 2.0),  # the median's
        ("mse", 1, [0, 0, 0, 8], 12.0),  # the mean's
        ("binary_crossentropy", 1, [0, 0, 0, 1], 0.562335),
        ("sparse_categorical_crossentropy", 3, [0, 0, 1, 2], 1.039721),
    ],
)
def test_the_best_constant_is_that_of_the_loss(loss, units, targets, expected):
    activation = {"mae": None, "mse": None, "binary_crossentropy": "sigmoid"}.get(loss, "softmax")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(units, activation=activation)])
    model.compile(loss=loss)
    found = best_constant(model, np.array(targets, np.float32)[:, None])
    assert found.loss == pytest.approx(expected, rel=1e-4)


def test_a_sample_is_as_small_however_many_rows_there_are():
    rows = np.arange(3 * MAX_SAMPLED, dtype=np.float32).reshape(-1, 48, 1)  # [steps, rows_per_step, columns]
    sample = TargetSample(3 * MAX_SAMPLED, 1)
    for part in np.array_split(rows, 11):
        sample.add(part)
    assert sample.rows.ravel().tolist() == list(range(0, 3 * MAX_SAMPLED, 3))
