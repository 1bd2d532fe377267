"""The benchmarks run, and their page and their one command name every one of them."""

import importlib
import json
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from command import TIMEOUT_S, environment
from warm import Warm

from disttrain.config import TrainConfig

ROOT = Path(__file__).parents[2]
NOT_BENCHMARKS = {"__main__", "measure", "generator_script", "tfdata_script"}
SCRIPTS = sorted({path.stem for path in (ROOT / "benchmarks").glob("*.py")} - NOT_BENCHMARKS)
# The smallest options with which a script measures anything; --help where that would take over ten seconds.
LEAST = {
    "checkpoint": ["--help"],
    "index": ["--gigabytes", "0.001", "--repeats", "1"],
    "launch_settings": ["--help"],
    "network": ["--help"],
    "parse": ["--megabytes", "1", "--turns", "1"],
    "columns": ["--rows", "2000", "--repeats", "1"],
    "formats": ["--rows", "2000", "--repeats", "1"],
    "scaling": ["--help"],
    "tables": ["--help"],
    "stream": ["--rows", "2e3", "--columns", "2", "--repeats", "1"],
}
STEPS = {
    "allreduce": ["--worker", "alone", "--measure", "batch-1000", "--repeats", "1"],
    "predict": ["--rows", "2000", "--repeats", "1"],
    "step": ["--contender", "disttrain", "--steps", "4", "--repeats", "1"],
}
BY_THEMSELVES = {"end_to_end", "memory"}
LIMIT_BYTES = 100e6


@pytest.fixture
def printed_here(monkeypatch, capsys):
    """What a benchmark prints that needs no TensorFlow, run in this process."""

    def run(name, *options):
        monkeypatch.syspath_prepend(ROOT)
        monkeypatch.setattr(sys, "argv", [name, *options])
        with suppress(SystemExit):  # after --help
            importlib.import_module(f"benchmarks.{name}").main()
        return capsys.readouterr().out

    return run


def printed(directory, name, *options):
    """What a benchmark printed that must succeed, in a process of its own."""
    output = directory / "output"
    running = Warm([*map(str, options)], ROOT, environment(directory), output, output, module=f"benchmarks.{name}")
    assert running.wait(TIMEOUT_S) == 0, output.read_text()
    return output.read_text()


def test_every_script_is_in_the_one_command_and_on_the_page(printed_here):
    shown = printed_here("__main__", "--help")
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert sorted("".join(shown.split("{")[1].split("}")[0].split()).split(",")) == SCRIPTS
    for name in SCRIPTS:
        assert f"`{name}.py`" in page


def test_every_script_is_run_by_a_test():
    assert sorted(LEAST.keys() | STEPS.keys() | BY_THEMSELVES) == SCRIPTS


@pytest.mark.parametrize("name", LEAST)
def test_every_script_runs(name, printed_here):
    assert printed_here(name, *LEAST[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_every_script_that_steps_runs(name, tmp_path):
    assert printed(tmp_path, name, *STEPS[name])


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_hands_on_to_disttrain_and_its_launchers_is_an_option_of_theirs(name):
    """Every `"--option"` that it does not take itself."""
    text = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    launchers = (ROOT / "launch" / "arguments.sh").read_text(encoding="utf-8")
    known = {"--" + field.replace("_", "-") for field in TrainConfig.model_fields} | {"--dry-run", "--"}
    known |= set(re.findall(r"\[(--[a-z-]+)\]=", launchers))
    own = set(re.findall(r'add_argument\("(--[a-z-]+)"', text))
    assert not set(re.findall(r'"(--[a-z-]*)"', text)) - own - known


@pytest.mark.slow
def test_end_to_end_compares_the_script_with_two_processes_on_one_file(tmp_path):
    results = tmp_path / "results.json"
    shown = printed(
        *(tmp_path, "end_to_end", "--contender", "generator", "horovod-cached"),
        *("--rows", "200e3", "--generator-rows", "5e3", "--epochs", "2", "--json", results),
    )
    written = json.loads(results.read_text())
    assert written["machine"]["numpy"]
    generator, horovod = written["results"]["generator"], written["results"]["horovod-cached"]
    assert (generator["rows"], horovod["rows"]) == (5000, 200_000)
    assert horovod["rows_per_s"] > generator["rows_per_s"]
    assert f" {horovod['rows_per_s'] / generator['rows_per_s']:.3g} " in shown
    assert generator["process_s"] > generator["rows"] * 2 / generator["rows_per_s"]


@pytest.mark.slow
def test_the_memory_of_a_run_does_not_grow_with_the_file(tmp_path):
    """A run on 272 MB of rows, as text and again as float32, takes little more memory than one on a thousand rows."""
    row = ",".join(["0.5"] * 17) + "\n"
    header = ",".join(f"x{i}" for i in range(17)) + "\n"
    few, many = tmp_path / "few.csv", tmp_path / "many.csv"
    few.write_text(header + row * 1000)
    with many.open("w") as stream:
        stream.writelines([header, *([row * 10_000] * 400)])
    assert many.stat().st_size > 2.5 * LIMIT_BYTES
    results = tmp_path / "results.json"
    printed(tmp_path, "memory", "--data", few, many, "--how", "none", "--json", results)
    peaks = {found["file"]: found["peak_bytes"] for found in json.loads(results.read_text())["results"]}
    assert peaks["many.csv"] - peaks["few.csv"] < LIMIT_BYTES
