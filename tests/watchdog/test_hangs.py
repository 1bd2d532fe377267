"""No silent hang: a rank that is stopped or stalls in a real run is named within `--timeout`, and all ranks end."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest
from command import command_line, environment, regression_rows, write_csv

TIMEOUT_S = 18  # compiling on a busy machine takes half of it
START_TIMEOUT_S = 5
ROWS = 6000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hangs")
    write_csv(directory / "data.csv", *regression_rows(ROWS))
    return directory


def mpirun(*arguments):
    """Ranks started by Open MPI itself, whose collectives wait for a stopped peer for ever."""
    launcher = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", "--bind-to", "none"]
    return [*launcher, sys.executable, "-m", "disttrain", *map(str, arguments)]


def start(place, command):
    """Starts a run, and returns in its second epoch."""
    run = subprocess.Popen(
        command, cwd=place, env=environment(place), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in run.stdout:
        if "epoch 2/" in line:
            break
    return run


LAUNCHERS = {"gloo": partial(command_line, processes=2), "mpi": mpirun}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "stopped", "collective"),
    [("gloo", 0, "compiled"), ("gloo", 1, "horovod"), ("mpi", 1, "compiled"), ("mpi", 0, "horovod")],
)
def test_a_stopped_rank_ends_the_run_and_is_named(place, launcher, stopped, collective):
    output = f"{launcher}{stopped}"
    arguments = ("--data", "data.csv", "--epochs", 100_000, "--batch-size", 30, "--timeout", TIMEOUT_S)
    arguments += ("--collective", collective)
    run = start(place, LAUNCHERS[launcher](*arguments, "--output", output))
    ranks = [p for p in psutil.Process(run.pid).children(recursive=True) if p.cmdline()[1:3] == ["-m", "disttrain"]]
    (victim,) = [process for process in ranks if rank_of(process) == stopped]
    os.kill(victim.pid, signal.SIGSTOP)
    begun_s = time.monotonic()
    _, said = run.communicate(timeout=120)
    assert time.monotonic() - begun_s < TIMEOUT_S + 20
    assert run.returncode != 0
    assert re.search(rf"rank {stopped} \(.*pid {victim.pid}\) has not been heard of for \d+ s", said), said
    assert psutil.wait_procs(ranks, timeout=30)[1] == []


@pytest.mark.slow
def test_a_rank_that_never_comes_does_not_leave_the_others_in_mpi_for_ever(place):
    """Rank 1 is stopped before its first line, so the others can only report that it is silent."""
    command = mpirun("--data", "data.csv", "--timeout", START_TIMEOUT_S, "--output", "alone")
    stops = ["bash", "-c", '[ "$OMPI_COMM_WORLD_RANK" = 0 ] || kill -STOP $$; exec "$@"', "bash"]
    command[command.index(sys.executable) : command.index(sys.executable)] = stops
    done = subprocess.run(command, cwd=place, env=environment(place), capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr
    ((rank, seconds, doing),) = re.findall(
        r"rank (\d) .* waited (\d+) s for the run to start, and is (.*?);", done.stderr
    )
    assert (rank, doing) == ("0", "meeting the other workers")
    assert START_TIMEOUT_S <= int(seconds) < START_TIMEOUT_S + 10


def rank_of(process):
    environ = process.environ()
    return int(environ.get("HOROVOD_RANK", environ.get("OMPI_COMM_WORLD_RANK")))
