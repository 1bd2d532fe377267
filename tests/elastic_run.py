"""Runs horovodrun so that a test can change its hosts and signal its workers.

It runs under launch/supervise.py, as in launch/horovod.sh: alone, horovodrun may end with 0 when it is asked to stop.
"""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
from command import LAUNCHER, ROOT, environment

# Names of this machine. Each is another host to horovodrun, which blacklists a whole host when one worker dies.
HOSTS = ["localhost", "127.0.0.1", "127.1", "127.0.1", "127.0.00.1"]
PATIENCE_S = 180


class ElasticRun:
    """horovodrun with a worker on each of `hosts`; `command` is what a worker runs."""

    def __init__(self, directory: Path, hosts: list[str], *options: str, command: list[str], **extra: str) -> None:
        self.hosts_file, self.log = directory / "hosts.txt", directory / f"log-{time.monotonic_ns()}.txt"
        self.set_hosts(hosts)
        discovery = f"{ROOT}/launch/discovery/hosts-file.sh {self.hosts_file}"
        words = [sys.executable, str(ROOT / "launch" / "supervise.py")]
        words += [*LAUNCHER, "--network-interface", "lo", "-np", str(len(hosts)), *options]
        words += ["--host-discovery-script", discovery, *command]
        environ = environment(directory, **extra)
        environ["PYTHONPATH"] += os.pathsep + str(ROOT / "tests")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=directory, env=environ
            )

    def set_hosts(self, hosts: list[str]) -> None:
        new = self.hosts_file.with_suffix(".new")
        new.write_text("".join(f"{host}:1\n" for host in hosts))
        new.replace(self.hosts_file)

    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, pattern: str, times: int = 1) -> float:
        """Waits until the run has printed the pattern; returns the seconds that it took."""
        begun_s = time.monotonic()
        while len(re.findall(pattern, self.text())) < times:
            assert time.monotonic() - begun_s < PATIENCE_S, f"no {pattern}: {self.text()}"
            assert self.process.poll() is None, f"no {pattern}: {self.text()}"
            time.sleep(0.02)
        return time.monotonic() - begun_s

    def workers(self) -> dict[int, int]:
        """Returns the workers' process ids by the ranks that they were started with."""
        found = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if "HOROVOD_RANK" in (environ := process.environ()) and process.name().startswith("python"):
                    found[int(environ["HOROVOD_RANK"])] = process.pid
            except psutil.Error:
                continue
        return found

    def signal(self, rank: int, number: int) -> None:
        """Sends a signal to the worker that was started with this rank."""
        os.kill(self.workers()[rank], number)

    def finish(self) -> str:
        """Waits for the end, which must have exit code 0; returns the output."""
        assert self.process.wait(PATIENCE_S) == 0, self.text()
        return self.text()

    def close(self) -> None:
        """Kills all processes that are left."""
        if self.process.poll() is None:
            left = [*psutil.Process(self.process.pid).children(recursive=True), self.process]
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait(10)
