"""Tasks and what follows from them; losses, metrics, optimizers and schedules by name, or the user's own."""

import csv
import json

import keras
import numpy as np
import pytest
from command import disttrain, history, trained
from sklearn import datasets, model_selection, neural_network, preprocessing

from disttrain.errors import UsageError
from disttrain.training.by_name import loss_of, metrics_of, optimizer_of, schedule_of

OWN = """
import keras

def cubed(targets, outputs):
    return keras.ops.mean(keras.ops.abs(targets - outputs) ** 3, axis=-1)

def slow_sgd(learning_rate):
    return keras.optimizers.SGD(learning_rate / 10, momentum=0.9)

def halved(epochs, steps_per_epoch):
    return keras.optimizers.schedules.PiecewiseConstantDecay([epochs * steps_per_epoch // 2], [0.01, 0.005])

def nothing():
    return None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_names.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def optimizer(text, rate=0.001, is_given=False):
    return optimizer_of(text, rate, is_given=is_given)


def test_names_take_arguments_in_any_of_kerass_spellings(own):
    assert loss_of("mae") == "mae"  # as Keras saves it
    for name in ("huber", "Huber"):
        assert float(loss_of(f"{name}:delta=2")(np.zeros((1, 1)), np.full((1, 1), 10))) == pytest.approx(18)
    assert float(loss_of("bce:from_logits=true")(np.ones((1, 1)), np.full((1, 1), 50))) == pytest.approx(0)
    (found,) = metrics_of(["AUC:curve=PR,name=pr,num_thresholds=50"])
    assert (found.name, found.num_thresholds, found.curve.name) == ("pr", 50, "PR")
    adamw = optimizer("adamw:weight_decay=0.01,clipnorm=1")
    assert (type(adamw).__name__, adamw.weight_decay, adamw.clipnorm) == ("AdamW", 0.01, 1)
    falling = "ExponentialDecay:initial_learning_rate=0.1,decay_steps=10,decay_rate=0.5"
    schedule = schedule_of(falling, epochs=1, steps_per_epoch=1)
    assert float(schedule(10)) == pytest.approx(0.05)
    assert loss_of("own_names:cubed")(np.zeros((2, 1)), np.ones((2, 1))).shape == (2,)
    assert float(optimizer("own_names:slow_sgd", 0.5).learning_rate) == pytest.approx(0.05)
    assert float(schedule_of("own_names:halved", epochs=2, steps_per_epoch=10)(15)) == pytest.approx(0.005)


def test_another_optimizer_than_adam_has_its_own_rate_unless_one_is_given():
    assert float(optimizer("sgd").learning_rate) == pytest.approx(float(keras.optimizers.SGD().learning_rate))
    assert float(optimizer("sgd", 0.2, is_given=True).learning_rate) == pytest.approx(0.2)
    assert float(optimizer("sgd:learning_rate=0.3").learning_rate) == pytest.approx(0.3)
    assert float(optimizer("Adam").learning_rate) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: loss_of("hubber"), "--loss hubber: Keras knows no such name; did you mean huber?"),
        (lambda: loss_of("huber:delt=2"), "Huber has no argument delt; did you mean delta?"),
        (lambda: metrics_of(["aucc:curve=PR"]), "did you mean AUC?"),
        (lambda: metrics_of(["IoU"]), "cannot be made from its name alone"),
        (lambda: optimizer("adamx"), "did you mean Adamax?"),
        (lambda: optimizer("adam:learning_rate=1", is_given=True), "leave learning_rate out"),
        (lambda: optimizer("own_names:nothing"), "returned NoneType, expected a keras Optimizer"),
        (lambda: optimizer("own_names:missing"), "own_names has no function missing; it has cubed,"),
        (lambda: schedule_of("Cosine", epochs=1, steps_per_epoch=1), "did you mean CosineDecay?"),
        (lambda: schedule_of("CosineDecay", epochs=1, steps_per_epoch=1), "initial_learning_rate"),
    ],
)  # fmt: skip
def test_what_keras_does_not_know_is_refused_with_what_it_knows(own, make, says):
    with pytest.raises(UsageError) as caught:
        make()
    assert says in str(caught.value)


def table(directory, name, load, *, as_text):
    """Writes a table that scikit-learn ships, two thirds to train on, a third to validate with; returns both parts."""
    shipped = load()
    labels = [shipped.target_names[one] if as_text else one for one in shipped.target]
    parts = model_selection.train_test_split(
        shipped.data, labels, test_size=1 / 3, random_state=1, stratify=shipped.target
    )
    for part, x, y in (("train", parts[0], parts[2]), ("valid", parts[1], parts[3])):
        with (directory / f"{name}-{part}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow([*shipped.feature_names, "class"])
            writer.writerows([*row, label] for row, label in zip(x.tolist(), y, strict=True))
    return parts


TABLES = {
    # name: (loader, whether its labels are texts, options, what is said)
    "cancer": (datasets.load_breast_cancer, True, (), "holds 2 labels (benign, malignant): binary classification"),
    "wine": (datasets.load_wine, True, (), "holds 3 labels (class_0, class_1, class_2): multiclass classification"),
    "digits": (datasets.load_digits, False, ("--task", "multiclass"), "holds 10 labels: multiclass classification"),
}
EPOCHS = 30


@pytest.mark.slow
def test_the_defaults_classify_as_well_as_scikit_learns_and_plain_kerass_on_the_same_rows(tmp_path):
    reached = []
    for name, (load, as_text, options, says) in TABLES.items():
        x, x_valid, y, y_valid = table(tmp_path, name, load, as_text=as_text)
        done = disttrain(
            tmp_path, "--data", f"{name}-train.csv", "--validation-data", f"{name}-valid.csv", "--epochs", EPOCHS,
            "--shuffle", "global", "--output", name, *options,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert says in done.stdout
        scaler = preprocessing.StandardScaler().fit(x)
        x, x_valid = scaler.transform(x), scaler.transform(x_valid)
        perceptron = neural_network.MLPClassifier(max_iter=EPOCHS, random_state=1, tol=0, n_iter_no_change=EPOCHS)
        perceptron.__dict__["_no_improvement_count"] = 0
        with pytest.warns(Warning, match="hasn't converged"):
            perceptron.fit(x, y)
        words = sorted(set(y))
        index, index_valid = (np.array([words.index(one) for one in labels]) for labels in (y, y_valid))
        keras.utils.set_random_seed(1)
        plain = keras.Sequential(
            [keras.Input((x.shape[1],)), keras.layers.Dense(100, "relu"), keras.layers.Dense(len(words), "softmax")]
        )
        plain.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        plain.fit(x, index, epochs=EPOCHS, verbose=0)
        rival = plain.evaluate(x_valid, index_valid, verbose=0)[1]
        reached.append([history(tmp_path / name)["val_accuracy"][-1], perceptron.score(x_valid, y_valid), rival])
    ours, scikit_learn, plain_keras = np.mean(reached, axis=0)
    assert ours >= max(scikit_learn, plain_keras) - 0.01, reached


@pytest.mark.slow
def test_a_target_of_numbers_is_classified_where_that_is_asked_for(tmp_path):
    drawn = np.random.default_rng(3)
    x = drawn.uniform(-1, 1, 400)
    for name, low, high in (("a", 10, 9), ("b", 0, 1)):
        rows = "".join(f"{one:.4f},{high if one > 0 else low}\n" for one in x)
        (tmp_path / f"{name}.csv").write_text(f"x,y\n{rows}")
    noted = disttrain(tmp_path, "--data", "b.csv", "--epochs", 1, "--output", "numbers")
    assert "Note: the target holds only 0 and 1, as numbers; if these are classes, add --task binary" in noted.stdout
    for task, metrics in (("binary", "accuracy,AUC"), ("multiclass", "accuracy")):
        run = trained(tmp_path, task, "--data", "a.csv", "--task", task, "--epochs", 30, "--metrics", metrics)
        assert history(run)["accuracy"][-1] > 0.95
        answers = keras.saving.load_model(run / "model.keras").predict({"x": np.array([-0.9, 0.9])}, verbose=0)
        assert answers["label"].tolist() == [b"10", b"9"]
        assert answers["probabilities"].shape == (2, 2)
        np.testing.assert_allclose(answers["probabilities"].sum(axis=1), 1, rtol=1e-6)


def test_several_targets_of_zeros_and_ones_are_classified_each(tmp_path):
    drawn = np.random.default_rng(3)
    rows = "".join(f"{x:.4f},{int(x > 0)},{int(x > 0.5)}\n" for x in drawn.uniform(-1, 1, 400))
    (tmp_path / "a.csv").write_text(f"x,y,z\n{rows}")
    run = trained(tmp_path, "several", "--data", "a.csv", "--targets", "y,z", "--task", "binary", "--epochs", 20)
    assert json.loads((run / "config.json").read_text())["loss"] == "binary_crossentropy"
    assert history(run)["accuracy"][-1] > 0.9


REFUSED = {
    "a regression of texts": (("--task", "regression"), "holds texts, which are labels: leave out --task regression"),
    "three labels as two": (("--task", "binary"), "has 3 different labels, and the task and its loss take up to 2"),
    "a loss of numbers": (("--task", "binary", "--loss", "mse"), "--task binary: does not suit --loss mse"),
    "a schedule that is scaled": (("--learning-rate", "CosineDecay:decay_steps=1", "--scale-lr"), "leave these out"),
    "no name": (("--optimizer", "adam:"), "must look like name, name:argument=value"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_suit_is_refused_with_what_would(tmp_path, case):
    options, says = REFUSED[case]
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{n},{'abc'[n % 3]}\n" for n in range(30)))
    done = disttrain(tmp_path, "--data", "a.csv", *options)
    assert done.returncode in (2, 3)
    assert says in done.stderr, done.stderr


@pytest.mark.slow
def test_two_workers_train_as_one_does_by_named_parts_and_go_on_with_the_same_ones_alone(own):
    drawn = np.random.default_rng(5)
    rows = "".join(f"{x:.4f},{2 * x:.4f}\n" for x in drawn.uniform(-1, 1, 600))
    (own / "a.csv").write_text(f"x,y\n{rows}")
    options = (
        "--data", "a.csv", "--num-shards", 2, "--batch-size", 25, "--loss", "own_names:cubed",
        "--metrics", "mae,huber:delta=2",
        "--optimizer", "adamw:weight_decay=0.01,clipnorm=1", "--learning-rate", "own_names:halved",
    )  # fmt: skip
    both, alone = (trained(own, f"of-{n}", *options, "--epochs", 2, processes=n) for n in (2, None))
    for name in ("loss", "mae", "huber"):
        np.testing.assert_allclose(history(both)[name], history(alone)[name], rtol=2e-5)
    assert keras.saving.load_model(alone / "model.keras").count_params() > 0  # without own_names
    for changed, says in (
        (("--optimizer", "adamw:weight_decay=0.02"), "--optimizer adamw:weight_decay=0.01,clipnorm=1"),
        (("--learning-rate", 0.1), "--learning-rate own_names:halved"),
        (("--loss", "mae"), "--loss own_names:cubed"),
    ):
        done = disttrain(own, *options, *changed, "--epochs", 3, "--output", "of-None")
        assert done.returncode == 2
        assert says in done.stderr, done.stderr
