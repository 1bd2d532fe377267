"""What keeps a run from resuming a checkpoint: the error names each difference, both values, and a remedy."""

import json

import pytest

from disttrain.checkpoints.differences import ANEW, refuse
from disttrain.checkpoints.record import RunRecord
from disttrain.errors import CheckpointError

WEIGHTS = [
    ["sequential/dense/kernel", [3, 16], "float32"],
    ["sequential/dense/bias", [16], "float32"],
    ["sequential/dense_1/kernel", [16, 1], "float32"],
]
RUN = {
    "data": {"/data/houses.csv": "1234-99"},
    "validation_data": {"/data/held_out.csv": "5678-99"},
    "num_rows": 1_000_000,
    "features": ["rooms", "area"],
    "targets": ["price"],
    "num_shards": 4,
    "batch_size": 250,
    "shuffle": "global",
    "seed": 3,
    "precision": "float32",
    "compression": "none",
    "warmup_epochs": 5.0,
    "model": WEIGHTS,
    "loss": "mae",
    "metrics": ["mse"],
    "optimizer_class": "Adam",
    "optimizer": [["adam/sequential_dense_kernel_momentum", [3, 16], "float32"]],
}


def differences(kept, now):
    return RunRecord.from_json(kept).differences(RunRecord.from_json(now))


def differing(**changed):
    return differences(json.loads(json.dumps(RUN)), RUN | changed)


# What changed in this run, the name, both sides, and what the remedy begins with.
TABLE = [
    ({"batch_size": 500}, "batch size", "250", "500", "--batch-size 250, or "),
    ({"num_shards": 2}, "num shards", "4", "2", "--num-shards 4, or "),
    ({"seed": 0}, "seed", "3", "0", "--seed 3, or "),
    ({"shuffle": "none"}, "shuffle", "global", "none", "--shuffle global, or "),
    ({"features": ("rooms",)}, "features", "rooms,area", "rooms", "--features rooms,area, or "),
    ({"features": ["area", "rooms"]}, "features", "rooms,area", "area,rooms", "--features rooms,area, or "),
    ({"targets": ["rent"]}, "targets", "price", "rent", "--targets price, or "),
    ({"loss": "mse"}, "loss", "mae", "mse", "--loss mae, or compile your own model with it, or "),
    (
        {"metrics": ["mse", "mae"]},
        "metrics",
        "mse",
        "mse,mae",
        "--metrics mse, or compile your own model with them, or ",
    ),
    ({"num_rows": 999}, "rows", "1,000,000", "999", "put the file back, or "),
    (
        {"data": {"/data/houses.csv": "1235-99"}},
        "data",
        "/data/houses.csv (1234-99)",
        "/data/houses.csv (1235-99)",
        "put the file back, or ",
    ),
    (
        {"validation_data": {"/data/held_out.csv": "5679-99"}},
        "validation data",
        "/data/held_out.csv (5678-99)",
        "/data/held_out.csv (5679-99)",
        "put the file back, or ",
    ),
    ({"precision": "mixed_bfloat16"}, "precision", "float32", "mixed_bfloat16", "--precision float32, or "),
    ({"compression": "fp16"}, "compression", "none", "fp16", "--compression none, or "),
    ({"warmup_epochs": 0.0}, "warmup epochs", "5.0", "0.0", "--warmup-epochs 5.0, or "),
    (
        {"optimizer_class": "SGD"},
        "optimizer",
        "Adam",
        "SGD",
        "--optimizer adam, or compile your own model with Adam, or ",
    ),
    (
        {"optimizer": []},
        "optimizer's variables",
        "adam/sequential_dense_kernel_momentum [3, 16] float32",
        "none",
        "compile the model with the same optimizer, or ",
    ),
    (
        {"model": [WEIGHTS[0], ["sequential/dense/bias", [8], "float32"], WEIGHTS[2]]},
        "model",
        "sequential/dense/bias [16] float32",
        "sequential/dense/bias [8] float32",
        "build the same model (--model, --hidden), or ",
    ),
    (
        {"model": [WEIGHTS[0], ["sequential/dense/bias", [16], "bfloat16"], WEIGHTS[2]]},
        "model",
        "sequential/dense/bias [16] float32",
        "sequential/dense/bias [16] bfloat16",
        "build the same model (--model, --hidden), or ",
    ),
    (
        {"model": [*WEIGHTS, ["sequential/dense_1/bias", [1], "float32"]]},
        "model",
        "none",
        "sequential/dense_1/bias [1] float32",
        "build the same model (--model, --hidden), or ",
    ),
]


@pytest.mark.parametrize(("changed", "name", "kept", "now", "remedy"), TABLE)
def test_a_difference_is_found_with_its_remedy(changed, name, kept, now, remedy):
    (found,) = differing(**changed)
    assert (found.name, found.kept, found.now, found.remedy) == (name, kept, now, remedy + ANEW)


def test_the_same_run_has_no_differences():
    assert differing() == []
    assert differing(features=("rooms", "area"), model=tuple(map(tuple, WEIGHTS))) == []


# What may change: these are not compared, or are the same by another name.
SAME = [
    {"world_size": 8, "backend": "horovod", "epochs": 99, "learning_rate": 0.5},
    {"data": {"/elsewhere/houses.csv": "1234-99"}, "validation_data": {"/elsewhere/held_out.csv": "5678-99"}},
    {"model": [["sequential_1/dense_2/kernel", *WEIGHTS[0][1:]], *WEIGHTS[1:]]},  # the second model of a process
    {"optimizer": [["adam_1/sequential_7_dense_12_kernel_momentum", [3, 16], "float32"]]},
]


@pytest.mark.parametrize("changed", SAME)
def test_what_may_change_is_no_difference(changed):
    assert differing(**changed) == []


def test_other_names_of_equal_shapes_are_a_difference():
    (found,) = differing(model=[["sequential/encoder/kernel", *WEIGHTS[0][1:]], *WEIGHTS[1:]])
    assert found.now == "sequential/encoder/kernel [3, 16] float32"


def test_what_either_side_does_not_tell_is_not_compared():
    assert differences({}, RUN) == differences(RUN, {}) == []


def test_a_value_with_spaces_is_quoted_for_the_shell():
    (found,) = differences({"targets": ["sale price"]}, {"targets": ["price"]})
    assert found.remedy.startswith("--targets 'sale price', ")


def test_of_many_weights_a_few_are_shown():
    kept = [[f"layer_{i}/kernel", [i], "float32"] for i in range(20)]
    (found,) = differences({"model": kept}, {"model": [[name, [*shape, 1], dtype] for name, shape, dtype in kept]})
    assert found.kept.split("\n")[-1] == found.now.split("\n")[-1] == "and 15 more"
    assert len(found.kept.split("\n")) == 6


def test_the_error_shows_both_sides_under_each_other():
    found = differing(batch_size=500, model=[WEIGHTS[0], *[[name, [9], dtype] for name, _, dtype in WEIGHTS[1:]]])
    error = refuse("runs/a/checkpoints/epoch-00001-step-000000010.ckpt", found)
    assert isinstance(error, CheckpointError)
    assert str(error) == (
        "runs/a/checkpoints/epoch-00001-step-000000010.ckpt belongs to another run:\n"
        "  batch size\n"
        "    in the checkpoint: 250\n"
        "    in this run:       500\n"
        "    what to do:        --batch-size 250, or start over with --overwrite\n"
        "  model\n"
        "    in the checkpoint: sequential/dense/bias [16] float32\n"
        "                       sequential/dense_1/kernel [16, 1] float32\n"
        "    in this run:       sequential/dense/bias [9] float32\n"
        "                       sequential/dense_1/kernel [9] float32\n"
        "    what to do:        build the same model (--model, --hidden), or start over with --overwrite"
    )
