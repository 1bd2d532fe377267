"""launch/supervise.py, alone and under horovod.sh and mpi.sh: how a run ends that is told to stop, fails or hangs."""

import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from command import environment, regression_rows, write_csv
from launching import LAUNCH, clean, needs_mpi

LAUNCHER_S = 20  # how long a launcher that is told to stop may take
PATIENCE_S = 60
SAY_STOPPED = 'echo "[1]<stderr>:disttrain: rank 1: stopped in epoch 2, after step 1,028; to go on: again" >&2'
SAY_KILLED = 'echo "Exit code: 137" >&2'


def program(path, text):
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("exit 0", 0),
        ("exit 75", 75),
        # As horovodrun ends, whatever the workers' codes were.
        ("printf 'Process name: 1\\nExit code: 3\\n' >&2; exit 1", 3),
        ("printf 'Exit code: 3\\n' >&2; exit 0", 0),
        ("kill -9 $$", 137),
        # No workers yet: the launcher itself is asked.
        ("trap 'exit 9' TERM; kill -TERM $PPID; sleep 20 &>/dev/null & wait", 9),
        # A horovodrun that is told to stop may end so: 0 does not mean that the run is finished, nor does 137 mean that
        # a worker that said otherwise was killed.
        ("trap 'exit 0' TERM; kill -TERM $PPID; sleep 20 &>/dev/null & wait", 75),
        (f"trap '{SAY_STOPPED}; {SAY_KILLED}; exit 1' TERM; kill -TERM $PPID; sleep 20 &>/dev/null & wait", 75),
        (f"trap '{SAY_KILLED}; exit 1' TERM; kill -TERM $PPID; sleep 20 &>/dev/null & wait", 137),
        (f"{SAY_STOPPED}; exit 0", 0),  # one of an elastic run was asked, and the others trained to the end
    ],
)
def test_the_exit_code_is_that_of_the_workers(tmp_path, text, code):
    done = subprocess.run(
        [sys.executable, LAUNCH / "supervise.py", "bash", "-c", text], capture_output=True, timeout=30
    )
    assert done.returncode == code, done.stderr


def test_no_launcher_is_left_behind_when_its_supervisor_is_killed(tmp_path):
    text = "trap 'touch ended; exit' TERM; touch begun; sleep 20 &>/dev/null & wait"
    process = subprocess.Popen([sys.executable, LAUNCH / "supervise.py", "bash", "-c", text], cwd=tmp_path)
    wait_for((tmp_path / "begun").exists)
    process.kill()
    process.wait(10)
    wait_for((tmp_path / "ended").exists)


@pytest.mark.slow
def test_a_launcher_that_hangs_is_killed(tmp_path):
    (tmp_path / "disttrain.py").write_text("import time; time.sleep(5)")
    texts = {
        "trap '' TERM; kill -TERM $PPID; sleep 600 & wait": 143,  # asked to end
        f"{sys.executable} -m disttrain; sleep 600 & wait": 7,  # without workers any more
        f"(sleep 600 &); {sys.executable} -m disttrain; sleep 30; exit 3": 7,  # with one whose parent is gone
    }
    commands = [[sys.executable, LAUNCH / "supervise.py", "bash", "-c", text] for text in texts]
    processes = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) for command in commands]
    wait_for(lambda: all(len(psutil.Process(process.pid).children(recursive=True)) > 1 for process in processes))
    below = [child for process in processes for child in psutil.Process(process.pid).children(recursive=True)]
    assert [process.wait(PATIENCE_S) for process in processes] == list(texts.values())
    assert psutil.wait_procs(below, timeout=10)[1] == []


ONE_NEVER_COMES = f"""
[ "$HOROVOD_RANK" != 1 ] || exec sleep 600
exec "{sys.executable}" "$@"
"""


@pytest.mark.slow
def test_horovodrun_that_is_stopped_while_workers_meet_ends_though_it_may_hang(tmp_path):
    discovery = program(tmp_path / "hosts", "printf 'localhost:1\\n127.0.0.1:1\\n'")
    options = ["--discovery", discovery, "-np", "2", "--min-np", "2", "--network-interface", "lo"]
    environ = clean(tmp_path, PYTHON=str(program(tmp_path / "python", ONE_NEVER_COMES)))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([LAUNCH / "horovod.sh", *options], cwd=tmp_path, env=environ, stdout=log, stderr=log)
    try:
        wait_for(lambda: any(map(is_asking_horovodrun, psutil.Process(process.pid).children(recursive=True))))
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        code = process.wait(LAUNCHER_S + 20)
    finally:
        process.kill()  # and its launcher gets a signal
        process.wait()
    is_killed = "supervise: the launcher does not end" in (tmp_path / "log").read_text()
    assert code == (143 if is_killed else 75), (tmp_path / "log").read_text()
    assert psutil.wait_procs(started, timeout=10)[1] == []


def is_asking_horovodrun(process):
    """Returns whether this is a worker that is asking for its rank, which is answered only when all have asked."""
    with suppress(psutil.Error):
        connections = process.net_connections() if process.cmdline()[1:3] == ["-m", "disttrain"] else []
        return any(connection.status == psutil.CONN_ESTABLISHED for connection in connections)
    return False


def wait_for(is_so):
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["horovod.sh", pytest.param("mpi.sh", marks=needs_mpi)])
def test_a_signal_ends_a_real_run_with_a_checkpoint_and_75(tmp_path, script):
    write_csv(tmp_path / "a.csv", *regression_rows(5000))
    arguments = ["-np", "2", "--", "--data", "a.csv", "--epochs", "100000", "--output", "run"]
    environ = clean(
        tmp_path, **{name: value for name, value in environment(tmp_path).items() if name.startswith("DISTTRAIN_")}
    )
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [LAUNCH / script, *arguments], cwd=tmp_path, env=environ, stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + 200
        while not (tmp_path / "run/checkpoints").is_dir() or not list((tmp_path / "run/checkpoints").glob("epoch-0*")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 75, log.read_text()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
    assert "2 workers" in log.read_text()
    assert "to go on: the same command again" in log.read_text()
