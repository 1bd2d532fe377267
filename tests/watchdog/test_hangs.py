"""No silent hang: a rank that is stopped or stalls in a real run is named within `--timeout`, and all ranks end."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
from command import command_line, disttrain, environment, regression_rows, write_csv

TIMEOUT_S = 18  # compiling on a busy machine takes half of it
OPENING_TIMEOUT_S = 6
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


class StallingHandler(SimpleHTTPRequestHandler):
    """Serves byte ranges, but never answers requests for bytes from `stalls_from` on."""

    stalls_from = sys.maxsize

    def do_GET(self):
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        if first >= self.stalls_from:
            threading.Event().wait(60)
            return
        with open(self.translate_path(self.path), "rb") as stream:
            stream.seek(first)
            content = stream.read(last + 1 - first)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/*")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def store(place):
    handler = partial(StallingHandler, directory=str(place))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/data.csv"
        server.shutdown()


@pytest.fixture
def stalls(monkeypatch):
    return partial(monkeypatch.setattr, StallingHandler, "stalls_from")


@pytest.mark.slow
def test_a_store_that_stalls_for_one_rank_in_a_later_epoch_ends_the_run_and_what_it_reads_is_named(
    place, store, stalls
):
    arguments = ("--data", store, "--epochs", 100_000, "--batch-size", 30, "--timeout", TIMEOUT_S)
    run = start(place, LAUNCHERS["gloo"](*arguments, "--output", "halved"))
    stalls((place / "data.csv").stat().st_size * 2 // 5)  # rank 0's last read begins before, rank 1's first behind
    _, said = run.communicate(timeout=120)
    assert run.returncode != 0
    reads = f"waiting for the rows of step \\d+: waiting for {store} to give bytes"
    assert re.search(rf"rank 1 \(.*\) made no progress for \d+ s while {reads}", said), said


@pytest.mark.slow
def test_a_store_that_stalls_while_a_file_is_opened_ends_the_run_and_what_is_read_is_named(place, store, stalls):
    stalls(0)
    done = disttrain(place, "--data", store, "--epochs", 1, "--timeout", OPENING_TIMEOUT_S, "--output", "stalled")
    assert done.returncode == 7, done.stderr
    (said,) = done.complaints
    assert re.search(rf"made no progress for \d+ s while waiting for {store} to give bytes \d+ to \d+", said), said
