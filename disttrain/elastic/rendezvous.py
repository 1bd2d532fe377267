"""Lets the workers of an elastic run meet before each start of Horovod, at the server that `horovodrun` runs.

A worker that starts Horovod while another one of its world is missing is lost too: the start ends the process after
30 s. So the workers first make sure that all are there. A request for `rank_and_size` is answered once every worker of
the world has asked or has ended. The answer leaves out the workers that ended, and includes those on new hosts, which
are still being started. Then each worker says that it is there. If all do so within moments, the leader lets them start
Horovod; else they ask again, and so wait for the new ones.

They start Horovod on a server of the leader's own: `horovodrun`'s server would count the start as another request.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from horovod.runner.http.http_server import RendezvousServer

from disttrain.checkpoints.file import Position
from disttrain.distributed.backend import SIGNAL_SPREAD_S
from disttrain.errors import PeerError, Stopped, UsageError

# Workers that were answered together say so within milliseconds; those still being started need longer than this.
ROLL_CALL_S = 2.0
LEADER_S = 10.0
# As long as horovodrun's own --elastic-timeout waits for hosts.
NEW_WORKERS_S = 600.0
POLL_S = 0.02

_NEEDED = ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT", "HOROVOD_HOSTNAME", "HOROVOD_LOCAL_RANK")
_RANK_VARIABLES = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")  # in the order of an answer
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class WorldAssignment:
    """A worker's numbers in the next world, as `horovodrun` gave them, and the server to start Horovod on."""

    answer: str
    server: tuple[str, int]

    @property
    def settings(self) -> dict[str, str]:
        """The environment that Horovod starts from."""
        numbers = dict(zip((f"HOROVOD_{name}" for name in _RANK_VARIABLES), self.answer.split(","), strict=True))
        address, port = self.server
        return numbers | {"HOROVOD_GLOO_RENDEZVOUS_ADDR": address, "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port)}


class Rendezvous:
    """One worker's side of the meetings."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Reads the address of `horovodrun` from the environment; raises UsageError if something else set it."""
        if missing := [name for name in _NEEDED if name not in environ]:
            raise UsageError(
                f"HOROVOD_ELASTIC is set, but not {missing[0]}: elastic runs are started by "
                "horovodrun --gloo --min-np ... --host-discovery-script ..., not by mpirun"
            )
        self.host, self.local_rank = environ["HOROVOD_HOSTNAME"], int(environ["HOROVOD_LOCAL_RANK"])
        self.launcher = environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"], int(environ["HOROVOD_GLOO_RENDEZVOUS_PORT"])
        self._server: RendezvousServer | None = None

    @property
    def key(self) -> str:
        """The name that `horovodrun` has for this worker."""
        return f"{self.host}:{self.local_rank}"

    def meet(self, stopping: Callable[[], bool] = lambda: False) -> WorldAssignment:
        """Waits until every worker of the next world is there.

        Args:
            stopping: called several times a second; the wait ends when it returns True.

        Raises:
            PeerError: if this worker is no longer part of the run, `horovodrun` is gone, new workers do not come in
                time, or another worker said that all would fail.
            Stopped: if `stopping` ended the wait.
        """
        if failed := self._poll("failed", 0.0):
            raise PeerError(f"{failed['key']} failed, and all others would", exit_code=failed["exit_code"])
        deadline = time.monotonic() + NEW_WORKERS_S
        while True:
            answer = self._ask(deadline, stopping)
            rank, size = (int(number) for number in answer.split(",")[:2])
            if rank < 0:
                raise PeerError(f"{self.key} is no longer among the hosts that were found: this worker leaves")
            self._put(f"here-{rank}", {"key": self.key, "answer": answer})
            go = self._let_go(size) if rank == 0 else self._poll("go", LEADER_S)
            if go:
                return WorldAssignment(answer, (go["address"], go["port"]))

    def is_first_to_stop(self, position: Position, rank: int) -> bool:
        """Returns whether no lower rank stops at this position too; True if horovodrun is gone and cannot tell."""
        name = f"stopped-{position.epoch}-{position.step}"
        try:
            self._put(f"{name}-{rank}", {"key": self.key})
            time.sleep(SIGNAL_SPREAD_S)
            return not any(self._poll(f"{name}-{lower}", 0.0) for lower in range(rank))
        except PeerError:
            return True

    def fail(self, exit_code: int) -> None:
        """Tells all others not to go on without this worker; must be called before they notice that it ended."""
        with suppress(PeerError):  # horovodrun is gone, and so nobody goes on
            self._put("failed", {"key": self.key, "exit_code": exit_code})

    def close(self) -> None:
        """Ends the leader's server, if this worker had one; safe to call twice."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _ask(self, deadline: float, stopping: Callable[[], bool]) -> str:
        """Returns this worker's numbers in the next world, once all have asked; asks once, as each request counts."""
        answers: list[str | Exception] = []

        def ask() -> None:
            try:
                with _direct.open(self._url(f"rank_and_size/{self.key}")) as reply:
                    answers.append(reply.read().decode())
            except Exception as error:
                answers.append(error)

        threading.Thread(target=ask, name="rendezvous", daemon=True).start()
        while not answers:
            if stopping():
                raise Stopped(f"{self.key} was stopped while waiting for workers that were being started")
            if time.monotonic() > deadline:
                raise PeerError(f"{self.key} waited {NEW_WORKERS_S:.0f} s for workers that were being started")
            time.sleep(POLL_S)
        if isinstance(answers[0], Exception):
            raise PeerError(f"horovodrun ended, or ends the run: {answers[0]}") from answers[0]
        return answers[0]

    def _let_go(self, size: int) -> dict[str, Any] | None:
        """Does the leader's part: tells all where to start Horovod, or to ask again if some are still being started."""
        deadline = time.monotonic() + ROLL_CALL_S
        there = [self._poll(f"here-{rank}", max(0.0, deadline - time.monotonic())) for rank in range(size)]
        present = [worker for worker in there if worker]
        go = self._serve(present) if len(present) == size else {}
        self._put("go", go)
        return go

    def _serve(self, workers: list[dict[str, Any]]) -> dict[str, Any]:
        self.close()
        self._server = RendezvousServer()
        port = self._server.start()
        self._server.init([])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(self.launcher)  # sends nothing; shows by which of its addresses horovodrun sees this machine
            address = probe.getsockname()[0]
        for worker in workers:
            _put(f"http://{address}:{port}/rank_and_size/{worker['key']}", worker["answer"].encode())
        return {"address": address, "port": port}

    def _url(self, path: str) -> str:
        address, port = self.launcher
        return f"http://{address}:{port}/{path}"

    def _put(self, name: str, value: dict[str, Any]) -> None:
        try:
            _put(self._url(f"disttrain/{name}"), json.dumps(value).encode())
        except OSError as error:
            raise PeerError(f"horovodrun ended, or ends the run: {error}") from error

    def _poll(self, name: str, seconds: float) -> dict[str, Any] | None:
        """Returns a value once it is there, or None if it is not there in time."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with _direct.open(self._url(f"disttrain/{name}"), timeout=LEADER_S) as reply:
                    value: dict[str, Any] = json.loads(reply.read())
                    return value
            except urllib.error.HTTPError:  # not there yet
                if time.monotonic() > deadline:
                    return None
            except OSError as error:
                raise PeerError(f"horovodrun ended, or ends the run: {error}") from error
            time.sleep(POLL_S)


def _put(url: str, content: bytes) -> None:
    _direct.open(urllib.request.Request(url, data=content, method="PUT"), timeout=LEADER_S).close()
