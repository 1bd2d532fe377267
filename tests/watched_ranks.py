"""What the tests of the watchdog share: the processes of a run, and ways to cut the network between them."""

import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict

from command import ROOT
from playing_rank import Script

TIMEOUT_S = 3
TELLS_S = 3  # five beats: long enough for each rank to have told all others what it does


class Ranks:
    """Processes that play the ranks of one run, of each what `acts` says (see Script)."""

    def __init__(self, directory, acts, *, timeout_s=TIMEOUT_S, hosts=None, proxy=None, **script):
        """
        Args:
            directory: where they exchange values.
            acts: for each rank, separated by commas.
            timeout_s: of the watchdog.
            hosts: for each rank the command that runs something on its host.
            proxy: by which the last rank reaches the leader.
            script: the other fields of Script.
        """
        self.directory = directory
        self.begun_s = time.monotonic()
        self.processes = []
        for rank, own_acts in enumerate(acts):
            port = proxy.port if proxy is not None and rank == len(acts) - 1 else None
            own = Script(str(directory), rank, len(acts), timeout_s, own_acts.split(","), leader_port=port, **script)
            command = [sys.executable, str(ROOT / "tests" / "playing_rank.py"), json.dumps(asdict(own))]
            prefix = hosts[rank] if hosts else ()
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            self.processes.append(
                subprocess.Popen(
                    [*prefix, *command],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def wait_until_ready(self, settles_s=1.0):
        """Waits until all are connected, and then `settles_s`, so that a beat or two has told what each does."""
        for process in self.processes:
            assert process.stdout.readline() == "ready\n"
        time.sleep(settles_s)

    def signal(self, rank, number):
        """Sends a signal, from which `seconds` are counted."""
        self.begun_s = time.monotonic()
        self.processes[rank].send_signal(number)

    def end(self):
        """Waits for all processes; returns their exit codes (-1 if one did not end) and what each printed on stderr."""
        codes, said = [], []
        for process in self.processes:
            try:
                said.append(process.communicate(timeout=60)[1])
                codes.append(process.returncode)
            except subprocess.TimeoutExpired:
                said.append("")
                codes.append(-1)
        self.seconds = time.monotonic() - self.begun_s
        return codes, said

    def offer(self):
        """The leader's addresses, port and token."""
        path = self.directory / "1-0"  # of the second exchange: the first one tells where all are
        deadline_s = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return pickle.loads(path.read_bytes())[2]

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            process.stdout.close()
            process.stderr.close()


class Proxy:
    """Forwards one rank's connections to the leader; once cut, it forwards neither data nor the end of a connection."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.leader = lambda: 0  # gives the leader's port
        self.is_cut = threading.Event()
        self.sockets = [self.listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def break_connections(self):
        for one in self.sockets[1:]:
            with suppress(OSError):  # the end of one may have ended the other
                one.shutdown(socket.SHUT_RDWR)

    def close(self):
        for one in self.sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                one = self.listener.accept()[0]
                other = socket.create_connection(("127.0.0.1", self.leader()))
                self.sockets += [one, other]
                for pair in ((one, other), (other, one)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source, target):
        with suppress(OSError):
            while data := source.recv(4096):
                if not self.is_cut.is_set():
                    target.sendall(data)
            if not self.is_cut.is_set():
                target.shutdown(socket.SHUT_WR)


class Cable:
    """Joins two network namespaces, which stand for hosts; `hosts` are the commands that run something in each."""

    def __init__(self):
        """Raises OSError or CalledProcessError where the system has no namespaces for us."""
        self.names = [f"disttrain{os.getpid()}{side}" for side in "ab"]
        self.hosts = [["ip", "netns", "exec", name] for name in self.names]
        for name in self.names:
            ip("netns", "add", name)
        first, second = self.names
        ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for number, name in enumerate(self.names):
            ip("-n", name, "address", "add", f"10.77.0.{number + 1}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "cable", "up")

    def pull(self):
        ip("-n", self.names[1], "link", "set", "cable", "down")

    def close(self):
        for name in self.names:
            with suppress(OSError, subprocess.CalledProcessError):
                ip("netns", "delete", name)


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


def one_line(said):
    """The only thing that all ranks together said, with `host, pid` and FILE for what differs from run to run."""
    (line,) = [line for text in said for line in text.splitlines()]
    return re.sub(r"host [\w.-]+, pid \d+", "host, pid", re.sub(r"(?<= )\w+\.py:\d+", "FILE", line))


def told_s(line):
    """Returns for how many whole seconds something lasted, according to the line."""
    return int(re.search(r" for (\d+) s", line)[1])
