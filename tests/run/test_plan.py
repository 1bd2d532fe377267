"""`disttrain plan` and `disttrain simulate`, as a user gives them."""

import json
import subprocess
import sys

import pytest
from command import ROOT, disttrain, environment

WHERE = ("--cache-dir", "cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plan")
    (directory / "parts").mkdir()
    for number in range(3):
        rows = "".join(f"{row},{2 * row}\n" for row in range(number * 40_000, (number + 1) * 40_000))
        (directory / "parts" / f"{number}.csv").write_text(f"x,y\n{rows}")
    return directory


def test_a_plan_names_each_workers_part(place):
    done = disttrain(place, "plan", "parts", "--world-size", 4, "--batch-size", 100, "--rate", "1e6", *WHERE)
    assert done.returncode == 0, done.stderr
    head, shape, titles, *rest = done.stdout.splitlines()
    assert head.startswith("parts: 3 files, 120,000 rows, ")
    assert shape == "4 workers, 4 shards, global batch 400: 300 steps an epoch"
    titles_asked = "rank shards rows from byte to byte bytes files reads requests"
    assert titles.split() == titles_asked.split()
    assert [line.split()[2] for line in rest[:4]] == ["30,000"] * 4
    assert [line.split()[-3] for line in rest[:4]] == ["1", "2", "2", "1"]
    assert "an epoch takes 0.03 s, 10 epochs 0.3 s" in done.stdout
    assert "requests, for" not in done.stdout  # local files


def test_tensorflow_is_not_needed_for_a_plan_without_a_measurement(place):
    program = "import sys; sys.modules['tensorflow'] = None; from disttrain.cli import main; main(sys.argv[1:])"
    for words in (
        ["plan", "parts", "--rate", "1e6", *WHERE],
        ["simulate", "parts", "--rate", "1e6", "--bandwidth", "1GB", *WHERE],
    ):
        subprocess.run([sys.executable, "-c", program, *words], cwd=place, env=environment(place), check=True)
    assert (ROOT / "disttrain").is_dir()


@pytest.mark.slow
def test_a_plan_measures_a_few_steps_and_leaves_nothing_behind(place):
    before = sorted(path.name for path in place.iterdir() if path.name != "cache")
    done = disttrain(
        place, "plan", "parts", "--world-size", 2, "--batch-size", 100, "--hidden", "4", "--json", *WHERE, cold=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["measured_steps"] >= 100
    assert 1e4 < found["rows_per_s"] < 1e9
    assert found["memory_bytes"] > 1e8
    assert found["epoch_s"] == pytest.approx(60_000 / found["rows_per_s"])
    assert found["workers"]["rows"] == [60_000, 60_000]
    assert sorted(path.name for path in place.iterdir() if path.name != "cache") == before


def test_a_simulation_says_what_limits_the_epoch(place):
    for options, limit in (
        (("--rate", "1e5", "--bandwidth", "1GB", "--latency", "1"), "the latency"),
        (("--rate", "1e3", "--bandwidth", "1GB"), "the training's speed"),
        (("--rate", "1e8", "--bandwidth", "1MB", "--latency", "0"), "the store's bandwidth"),
    ):
        done = disttrain(place, "simulate", "parts", "--world-size", 2, *options, *WHERE)
        assert done.returncode == 0, done.stderr
        assert f"{limit}" in done.stdout.splitlines()[-1]
    told = disttrain(place, "simulate", "parts", "--rate", "1e6", "--bandwidth", "1GB", "--json", *WHERE)
    assert json.loads(told.stdout)["simulated"] == 1


@pytest.mark.parametrize("how", ["place", "option", "environment", "file"])
def test_the_files_of_a_plan_are_named_as_those_of_a_training(place, how):
    (place / "plan.toml").write_text('data = "parts"\n')
    words = {"place": ["parts"], "option": ["--data", "parts"], "file": ["--config", "plan.toml"]}.get(how, [])
    given = {"DISTTRAIN_DATA": "parts"} if how == "environment" else {}
    done = disttrain(place, "plan", *words, "--rate", "1e6", "--validation-split", 0.25, *WHERE, **given)
    assert done.stdout.startswith("parts: 3 files, about 90,000 rows, "), done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["plan"], 2, "FILE is required: CSV files to plan for, as one dataset: "),
        (["plan", "none.csv"], 2, "none.csv: no such file"),
        (["plan", "empty.csv", "--rate", "1"], 3, "empty.csv: has a header line but no rows"),
        (["plan", "parts", "--validation-data", "none.csv", "--rate", "1"], 2, "none.csv: no such file"),
        (
            ["plan", "http://localhost/*.csv"],
            2,
            "http://localhost/*.csv: web servers do not tell which files they have",
        ),
        (["plan", "parts", "--world-size", "0"], 2, "--world-size"),
        (["plan", "parts", "--world-size", "9", "--num-shards", "8", "--rate", "1"], 2, "without a shard"),
        (["simulate", "parts", "--rate", "1"], 2, "--bandwidth is required: bytes per second that the store gives"),
        (["simulate", "parts", "--bandwith", "1GB"], 2, "did you mean --bandwidth?"),
    ],
)
def test_what_cannot_be_planned_is_named(place, words, code, says):
    (place / "empty.csv").write_text("x,y\n")
    done = disttrain(place, *words, *(WHERE if len(words) > 1 else ()))
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
