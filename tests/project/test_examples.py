"""Every file in examples/ does what it says, run as its first lines describe, on a small file."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from disttrain.synthetic.regression import Recipe, make_data

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    """Run Python with these arguments where a user would, with a cache of the test's own; returns what it printed."""

    def start(*arguments: object) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DISTTRAIN_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return start


def history_of(directory: Path) -> list[dict[str, float]]:
    with open(directory / "history.csv", newline="") as file:
        return [{name: float(text) for name, text in record.items()} for record in csv.DictReader(file)]


def test_own_fit_trains_on_every_row_and_learns_the_line(tmp_path, run):
    make_data(tmp_path / "a.csv", Recipe(40_100, noise=0.05))
    printed = run("examples/own_fit.py", tmp_path / "a.csv", 3)
    assert printed.count("161/161") == 3  # 160 batches of 250 and one of 100, three times
    value = float(re.search(r"x = 0\.5 gives y = (\S+)", printed).group(1))
    assert value == pytest.approx(0.5, abs=0.05)


def test_own_model_learns_a_function_of_several_features(tmp_path, run):
    make_data(tmp_path / "a.csv", Recipe(60_000, num_features=5, noise=0.1))
    run(
        *("-m", "disttrain", "--data", tmp_path / "a.csv", "--model", "examples.own_model:build"),
        *("--batch-size", 100, "--epochs", 2, "--output", tmp_path / "run"),
    )
    history = history_of(tmp_path / "run")
    assert [epoch["rows"] for epoch in history] == [60_000, 60_000]
    assert history[-1]["mae"] < 0.15  # the noise alone has 0.08, and a constant 0.7
    assert (tmp_path / "run" / "model.keras").is_file()


def test_the_job_s_configuration_file_is_what_the_command_reads(tmp_path, run):
    make_data(tmp_path / "a.csv", Recipe(20_000))
    run(
        *("-m", "disttrain", "--config", "examples/five_hundred.toml"),
        *("--data", tmp_path / "a.csv", "--epochs", 1, "--output", tmp_path / "run"),
    )
    text = json.dumps(json.loads((tmp_path / "run" / "config.json").read_text()))
    assert '"hidden": [16, 8]' in text
    assert '"features": ["x"]' in text
    assert '"batch_size": 250' in text
    assert len(history_of(tmp_path / "run")) == 1  # the command line wins over the file's 10
