"""The command as a user meets it: what it prints, what it leaves behind, and how it ends when it is stopped."""

import contextlib
import csv
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from command import command_line, disttrain, environment, finished, trained

ESCAPE = "\x1b"
ENDLESS = ("--data", "data.csv", "--epochs", 1_000_000, "--output", "endless")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with data.csv, made by the command itself."""
    directory = tmp_path_factory.mktemp("command")
    made = disttrain(directory, "make-data", "data.csv", "--rows", "2e3", cold=True)
    assert (made.returncode, made.stdout) == (0, ""), made.stderr
    *_, said = made.stderr.splitlines(keepends=True)  # on a slow machine, compiling takes as long as a line of progress
    assert re.fullmatch(r"writing data.csv: done, 2,000 rows · .* MB/s\n", said), made.stderr
    return directory


@pytest.fixture(scope="module")
def results(place):
    """A run's directory, named by the command, and what the run printed."""
    options = ("--data", "data.csv", "--validation-data", "data.csv", "--epochs", 3, "--metrics", "mse,mae")
    done = disttrain(place, *options, cold=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    (directory,) = (place / "runs").iterdir()
    return directory, done.stdout


def test_a_run_tells_what_it_does_in_plain_lines(results):
    directory, text = results
    assert ESCAPE not in text
    assert "\r" not in text
    for pattern in (
        r"data\.csv: 2,000 rows, x -> y\n",
        r"local backend, 1 worker, 1 x 250 rows a step, 8 steps an epoch\n",
        r"Compiled the superstep in \d+\.\d s\n",
        r"epoch 3/3 · loss \S+ · mse \S+ · mae \S+ · val_loss \S+ · val_mse \S+ · val_mae \S+ · \S+ rows/s · 0:0\d\n",
        r"Done: loss .* rows/s\n",
        rf"Model: runs/{directory.name}/model.keras\n$",
    ):
        assert re.search(pattern, text), text


RESULTS = {"model.keras", "config.json", "history.csv", "metrics.jsonl", "checkpoints"}


def test_the_results_are_all_there(results):
    directory, _ = results
    names = {path.name for path in directory.iterdir()}
    assert names == RESULTS


def test_a_run_is_named_after_its_data_and_time(results):
    directory, _ = results
    assert re.fullmatch(r"data-\d{8}-\d{6}", directory.name)


@pytest.mark.slow
def test_plain_keras_loads_the_model_and_predicts_without_disttrain(results, tmp_path):
    directory, _ = results
    code = f"""
import importlib.util, keras, numpy
assert importlib.util.find_spec("disttrain") is None
model = keras.saving.load_model({str(directory / "model.keras")!r})
print(model.predict(numpy.array([[0.25], [0.75]]), verbose=0).shape, model.optimizer.name, model.count_params())
"""
    found = subprocess.run(
        [sys.executable, "-I", "-c", strip_disttrain() + code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.split("\n")[0] == "(2, 1) adam 177"


def strip_disttrain():
    """Code that hides an installed disttrain from a process started with `-I`."""
    return (
        "import sys\nsys.meta_path = [finder for finder in sys.meta_path if '__editable__' not in repr(finder)]\n"
        f"sys.path = [place for place in sys.path if place != {str(Path(__file__).parents[2])!r}]\n"
    )


def test_config_json_tells_all_that_the_run_was_made_with(results):
    directory, _ = results
    config = json.loads((directory / "config.json").read_text())
    asked = {"data": "data.csv", "epochs": 3, "metrics": ["mse", "mae"], "hidden": [16, 8], "batch_size": 250}
    found = {"backend": "local", "world_size": 1, "output": f"runs/{directory.name}", "seed": 0}
    assert {name: config[name] for name in asked | found} == asked | found
    assert set(config["versions"]) == {"disttrain", "tensorflow", "keras", "numpy"}


def test_history_csv_and_metrics_jsonl_agree(results):
    directory, _ = results
    with (directory / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = ["epoch", "loss", "mse", "mae", "val_loss", "val_mse", "val_mae", "rows", "seconds", "rows_per_s"]
    assert list(rows[0]) == names
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    epochs = [record for record in records if record["event"] == "epoch"]
    for row, record in zip(rows, epochs, strict=True):
        assert abs(record["time_s"] - time.time()) < 3600
        for name in names:
            assert float(row[name]) == record[name], name
        assert record["rows"] == 2000


@pytest.mark.slow
def test_without_data_it_trains_on_the_sample_that_it_makes_once(tmp_path):
    first = disttrain(tmp_path, "--epochs", 1, "--output", "first", cold=True)
    assert (first.returncode, first.stderr) == (0, ""), first.stderr
    assert first.stdout.startswith("No --data: training on the built-in sample, y = x, 1,000,000 rows\n"), first.stdout
    (sample,) = (tmp_path / "cache").glob("**/*.csv")
    made = sample.stat()
    assert sample.read_bytes().count(b"\n") == 1_000_001
    second = disttrain(tmp_path, "--epochs", 1, "--output", "second", processes=2)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("No --data") == 1
    assert (sample.stat().st_mtime_ns, sample.stat().st_ino) == (made.st_mtime_ns, made.st_ino)


def test_it_is_installed_as_a_command_of_its_own(place):
    installed = Path(sys.executable).with_name("disttrain")
    done = finished(place, [str(installed), "--version"])
    assert re.fullmatch(r"disttrain \d+\.\d+\.\d+\n", done.stdout), done


def on_terminal(directory, command):
    """A command's exit code, and what it shows on a terminal of 120 columns."""
    main, terminal = pty.openpty()
    env = environment(directory, TERM="xterm-256color", COLUMNS="120")
    process = subprocess.Popen(
        command, cwd=directory, env=env, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + 120
    with contextlib.suppress(OSError):  # Linux's answer once the last process has closed the terminal
        while time.monotonic() < deadline:
            if select.select([main], [], [], 1)[0]:
                shown += os.read(main, 65536)
    os.close(main)
    return process.wait(10), shown.decode()


@pytest.mark.slow
def test_a_terminal_gets_a_live_line(place):
    code, shown = on_terminal(
        place, command_line("--data", "data.csv", "--epochs", 60, "--batch-size", 1, "--output", "live")
    )
    assert code == 0, shown
    assert ESCAPE in shown
    assert re.search(r"epoch \d+/60 .*step [\d,]+/2,000 · loss \S+ · \S+ rows/s · \d:\d\d left", shown), shown
    assert shown.rstrip().endswith("Model: live/model.keras"), shown[-300:]


@pytest.mark.slow
def test_a_launcher_that_gives_its_worker_a_terminal_still_gets_plain_lines(place):
    """As `mpirun` does; its ranks' lines would be mixed with a live one."""
    launched = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}
    command = ["env", *(f"{name}={value}" for name, value in launched.items())]
    command += command_line("--data", "data.csv", "--epochs", 2, "--output", "launched")
    code, shown = on_terminal(place, command)
    assert code == 0, shown
    assert ESCAPE not in shown, shown
    assert "epoch 2/2 · loss" in shown


def started(place, *more, processes=None, **extra):
    """Starts an endless run, and returns it once it is in the middle of its epochs."""
    process = subprocess.Popen(
        command_line(*ENDLESS, "--overwrite", *more, processes=processes), cwd=place, env=environment(place, **extra),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    for line in process.stdout:
        if "epoch 2/" in line:
            return process
    pytest.fail(process.communicate()[1])


# what the one line says: signal, exit code
STOPS = {
    "interrupted": (signal.SIGINT, 130),
    "terminated": (signal.SIGTERM, 143),
}


@pytest.mark.slow
def test_a_run_that_is_interrupted_keeps_a_checkpoint_and_says_how_to_go_on(place):
    process = started(place)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert re.fullmatch(
        r"disttrain: stopped in epoch \d+, after step \d+; to go on: the same command again, without --overwrite\n",
        said,
    )
    assert "checkpoints" in {path.name for path in (place / "endless").iterdir()}
    assert not (place / "endless" / "model.keras").exists()


def test_an_interrupt_in_the_middle_of_a_callback_is_not_lost(tmp_path):
    """What is raised there, Python only prints; JAX has callbacks of the garbage collector."""
    command = """if True:
        import gc, os, signal, threading
        from disttrain.cli import main

        def collected(phase, info):
            if threading.current_thread() is threading.main_thread():
                gc.callbacks.remove(collected)
                os.kill(os.getpid(), signal.SIGINT)
                "".join("the signal is handled here" for _ in range(1000))

        gc.set_threshold(1)
        threading.Timer(2.0, gc.callbacks.append, [collected]).start()
        main(["make-data", "endless.csv", "--rows", "500e6"])
    """
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "disttrain: interrupted\n")
    assert list(tmp_path.glob("*.csv*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("word", STOPS)
def test_a_run_that_keeps_no_checkpoints_ends_at_once_with_one_line_and_no_model(place, word):
    number, code = STOPS[word]
    process = started(place, "--checkpoint-every", "never", "--output", "never")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (code, f"disttrain: {word}\n")
    assert {path.name for path in (place / "never").iterdir()} == {"config.json", "history.csv", "metrics.jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize("word", STOPS)
def test_a_launcher_that_is_stopped_leaves_no_process_behind(place, word):
    number, _ = STOPS[word]
    launcher = started(place, processes=2)
    family = psutil.Process(launcher.pid).children(recursive=True)
    assert sum(process.cmdline()[1:3] == ["-m", "disttrain"] for process in family) == 2
    launcher.send_signal(number)
    launcher.communicate(timeout=60)  # its exit code may even be 0: see launch/supervise.py
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert not (place / "endless" / "model.keras").exists()


@pytest.mark.slow
def test_a_run_that_nobody_reads_goes_on_and_keeps_a_checkpoint_when_it_is_interrupted(place):
    """As with `disttrain 2>&1 | tee log`, where Ctrl-C ends tee too."""
    process = subprocess.Popen(
        command_line(*ENDLESS, "--overwrite", "--output", "unread"), cwd=place, env=environment(place),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout.readline().startswith("data.csv: 2,000 rows")
    process.stdout.close()
    kept = place / "unread" / "history.csv"
    while not kept.exists() or kept.read_text().count("\n") < 4:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 75
    assert len(list((place / "unread" / "checkpoints").iterdir())) >= 2


def test_a_reader_that_has_enough_of_the_help_gets_no_traceback(place):
    script = f"{sys.executable} -m disttrain --help | head -1"
    done = finished(place, ["bash", "-c", script])
    assert done.stdout.startswith("usage: disttrain")
    assert done.stderr == ""


@pytest.mark.slow
def test_making_data_shows_its_progress(tmp_path):
    """A bar on a terminal, a line every five seconds elsewhere, and the file under its name only when it is whole."""
    code, shown = on_terminal(tmp_path, command_line("make-data", "large.csv", "--rows", "20e6"))
    assert code == 0, shown
    assert ESCAPE in shown
    assert re.search(r"writing large.csv: done, 20,000,000 rows · 0\.4\d GB · [\d,]+ MB/s", shown), shown
    assert [path.name for path in tmp_path.iterdir()] == ["large.csv"]


@pytest.mark.slow
def test_data_that_is_interrupted_in_the_making_leaves_nothing_behind(tmp_path):
    process = subprocess.Popen(
        command_line("make-data", "large.csv", "--rows", "500e6"), cwd=tmp_path, env=environment(tmp_path),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list(tmp_path.glob(".large.csv*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1] == "disttrain: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_workers_speak_with_one_voice(place):
    run = trained(place, "two", "--data", "data.csv", "--epochs", 2, processes=2)
    assert json.loads((run / "config.json").read_text())["world_size"] == 2
    assert {path.name for path in run.iterdir()} == RESULTS
