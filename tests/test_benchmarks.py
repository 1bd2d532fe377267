"""The benchmarks run, and their page and their one command name every one of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_BENCHMARKS = {"__main__", "measure", "generator_script", "tfdata_script"}


def test_every_script_is_in_the_one_command_and_on_the_page():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - NOT_BENCHMARKS
    shown = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert set("".join(shown.split("{")[1].split("}")[0].split()).split(",")) == scripts
    for name in scripts:
        assert f"`{name}.py`" in page


@pytest.mark.slow
def test_end_to_end_compares_the_script_with_disttrain_on_one_file(tmp_path):
    results = tmp_path / "results.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.end_to_end", "--contender", "generator", "disttrain"),
            *("--rows", "20e3", "--generator-rows", "5e3", "--epochs", "2", "--json", str(results)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(results.read_text())
    assert written["machine"]["numpy"]
    generator, disttrain = written["results"]["generator"], written["results"]["disttrain"]
    assert (generator["rows"], disttrain["rows"]) == (5000, 20_000)
    assert disttrain["rows_per_s"] > generator["rows_per_s"]
    assert f"{disttrain['rows_per_s'] / generator['rows_per_s']:.1f}" in done.stdout
    assert generator["process_s"] > generator["rows"] * 2 / generator["rows_per_s"]
