"""Tells whether a container trains: exit code 0 if so, else 1 and why.

A disttrain process must run, not be stopped, and show progress: it writes metrics.jsonl every few seconds, and history,
checkpoints and the model into the same directory. The newest of these, or the start of the process, must be younger
than HEALTH_AGE_S seconds (1800): set it above the time that the first look through the data takes, and the longest
validation. A worker whose results another one writes must only run. A container that waits for a launcher must answer
as sshd does.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

AGE_S = float(os.environ.get("HEALTH_AGE_S") or 1800)
STOPPED = "TtZXx"  # the states of proc(5) in which a process does nothing
RANKS = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")  # which horovodrun and MPI's launchers set


def main() -> str | None:
    """What is wrong, if anything."""
    workers = [worker for worker in Path("/proc").glob("[0-9]*") if is_worker(worker)]
    if not workers and b"sshd" in Path("/proc/1/cmdline").read_bytes():
        return None if ssh_answers() else "sshd does not answer"
    if not workers:
        return "no disttrain process runs"
    for worker in workers:
        if fields(worker)[0] in STOPPED:
            return f"process {worker.name} is stopped"
    ages = [age_s for worker in workers if (age_s := since_progress_s(worker)) is not None]
    if ages and min(ages) > AGE_S:
        return f"no sign of training for {min(ages):.0f} s, more than {AGE_S:g}"
    return None


def is_worker(process: Path) -> bool:
    """Whether a process is `python -m disttrain`."""
    try:
        return (process / "cmdline").read_bytes().split(b"\0")[1:3] == [b"-m", b"disttrain"]
    except OSError:  # it has just ended, or is another user's
        return False


def fields(process: Path) -> list[str]:
    """What proc(5) says of a process, from its state on."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def since_progress_s(worker: Path) -> float | None:
    """Seconds since a worker began or last wrote something into its output directory; None if another one writes."""
    environ = dict(entry.split("=", 1) for entry in words(worker / "environ") if "=" in entry)
    if any(environ.get(name, "0") != "0" for name in RANKS) or is_behind_another(environ):
        return None
    begun_ticks = int(fields(worker)[19])  # starttime, since the machine was started
    age_s = float(Path("/proc/uptime").read_text().split()[0]) - begun_ticks / os.sysconf("SC_CLK_TCK")
    written = [path.stat().st_mtime for path in output(worker, environ).rglob("*")]
    return min([age_s, *(time.time() - time_s for time_s in written)])


def is_behind_another(environ: Mapping[str, str]) -> bool:
    """Whether TF_CONFIG names another worker as the first one: the chief, or else number 0."""
    try:
        config = json.loads(environ["TF_CONFIG"])
        first = "chief" if config["cluster"].get("chief") else "worker"
        return (config["task"]["type"], int(config["task"]["index"])) != (first, 0)
    except (KeyError, ValueError, TypeError, AttributeError):  # none, or one that disttrain itself complains of
        return False


def output(worker: Path, environ: dict[str, str]) -> Path:
    """The directory that --output names, else all of runs/."""
    named = environ.get("DISTTRAIN_OUTPUT")
    arguments = words(worker / "cmdline")
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "--output":
            named = following
        elif argument.startswith("--output="):
            named = argument.partition("=")[2]
    return Path(os.readlink(worker / "cwd")) / (named or "runs")


def words(path: Path) -> list[str]:
    """The strings of a file of proc(5) that ends each with a zero."""
    return path.read_bytes().decode(errors="replace").split("\0")


def ssh_answers() -> bool:
    """Whether the greeting of an ssh server comes."""
    try:
        with socket.create_connection(("127.0.0.1", int(os.environ.get("SSH_PORT") or 2222)), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


if __name__ == "__main__":
    try:
        complaint = main()
    except OSError as error:  # the worker has just ended
        complaint = f"the process cannot be looked at: {error}"
    print(complaint or "training")
    sys.exit(1 if complaint else 0)
