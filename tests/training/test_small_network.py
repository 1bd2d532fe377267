"""Small networks: which ones count as small, that XLA makes one function of their steps, and equal numbers."""

import csv

import keras
import pytest
from command import disttrain

from disttrain.synthetic.regression import Recipe, make_data
from disttrain.training.small_network import FLAGS, MAX_ROWS, is_small, set_xla_flags


def network(*layers):
    return keras.Sequential([keras.Input((2,)), *layers])


@pytest.mark.parametrize(
    ("layers", "rows", "small"),
    [
        ([keras.layers.Dense(16, "relu"), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)], 250, True),
        ([keras.layers.Dense(1)], MAX_ROWS, True),
        ([keras.layers.Dense(1)], MAX_ROWS + 1, False),  # larger products are the library's
        ([keras.layers.Dense(1)], 0, False),  # a worker without a full step
        ([keras.layers.Dense(17, "relu"), keras.layers.Dense(1)], 250, False),
        ([keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dense(1)], 250, False),
        ([keras.layers.Dense(8, dtype="mixed_bfloat16"), keras.layers.Dense(1)], 250, False),
    ],
)
def test_a_network_is_small_by_its_layers_and_rows(layers, rows, small):
    assert is_small(network(*layers), rows) is small


@pytest.mark.parametrize(
    ("environ", "after", "told"),
    [
        ({}, FLAGS, True),
        ({"XLA_FLAGS": "--xla_cpu_max_isa=AVX2"}, "--xla_cpu_max_isa=AVX2", False),
        ({"XLA_FLAGS": f"{FLAGS} --xla_cpu_max_isa=AVX2"}, f"{FLAGS} --xla_cpu_max_isa=AVX2", True),
    ],
)
def test_flags_that_a_user_has_set_are_left_alone(environ, after, told):
    assert set_xla_flags(environ) is told
    assert environ == {"XLA_FLAGS": after}


@pytest.mark.slow
def test_the_steps_of_a_small_network_are_one_function_with_the_same_results(tmp_path):
    make_data(str(tmp_path / "data.csv"), Recipe(20_000, num_features=3, noise=0.1))
    losses = {}
    for name, flags in (("one", f"{FLAGS} --xla_dump_to=dump --xla_dump_hlo_as_text"), ("many", "--xla_dump_to=other")):
        told = disttrain(tmp_path, "--data", "data.csv", "--output", name, "--epochs", 2, cold=True, XLA_FLAGS=flags)
        assert told.returncode == 0, told.stderr
        with open(tmp_path / name / "history.csv", newline="") as file:
            losses[name] = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses["one"] == pytest.approx(losses["many"], rel=1e-5)
    (program,) = (tmp_path / "dump").glob("*train_steps*cpu_after_optimizations.txt")
    entry = program.read_text().partition("\nENTRY ")[2]
    assert 'xla_cpu_small_call="true"' in entry  # a call of one function ...
    assert " while(" not in entry  # ... that holds the loop
