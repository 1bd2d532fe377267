"""What a worker sends and receives in each beat, by its role: alone, the leader, or a follower of the leader."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any

from disttrain.distributed.json_lines import Message, Waiter
from disttrain.distributed.links import Link, Server
from disttrain.watchdog.judge import Beat, Judge, Verdict

WARN_S = 10.0  # after which the leader warns about a worker that was never heard from

_FAULTS = (KeyError, TypeError, ValueError, IndexError)  # raised by a message that is not one of ours


class Alone:
    """The only worker: it has nobody to tell anything, and judges only its own main thread."""

    told_exit_code: int | None = None  # of the first other worker that reported its failure

    def __init__(self, waiter: Waiter, judge: Judge, rank: int) -> None:
        self.is_ready = threading.Event()
        self.is_ready.set()
        self._waiter = waiter
        self._judge = judge
        self._rank = rank

    def hear(self, own: Beat, until_s: float) -> Verdict | None:
        """Waits until `until_s`; returns None, as there is no other worker to send a verdict."""
        self._judge.heard(self._rank, own, monotonic())
        self._waiter.wait(until_s)
        return None

    def verdict(self, now: float) -> Verdict | None:
        """Returns who hangs, as far as this worker knows."""
        return self._judge.verdict(now)

    def missed(self, now: float) -> str:
        """Returns which other workers are silent: none."""
        return ""

    def tell(self, verdict: Verdict) -> None:
        """Does nothing: there are no other workers."""

    def settle(self, verdict: Verdict, now: float) -> None:
        """Restarts all clocks after a verdict."""
        self._judge.restart(now)

    def restart(self, now: float) -> None:
        """Restarts all clocks."""
        self._judge.restart(now)

    def leave(self, farewell: Message) -> None:
        """Does nothing: there are no other workers."""

    def close(self) -> None:
        """Does nothing: there are no sockets."""


class Leader:
    """Receives the beats of all workers and judges them, itself among them."""

    def __init__(self, waiter: Waiter, server: Server, judge: Judge, warn: Callable[[str], None]) -> None:
        self.is_ready = threading.Event()
        self.is_ready.set()
        self._waiter = waiter
        self._server = server
        self._judge = judge
        self._warn = warn
        self._warns_s = monotonic() + WARN_S
        self._settled: dict[int, Verdict] = {}
        self._own = Beat()
        self.told_exit_code: int | None = None

    def hear(self, own: Beat, until_s: float) -> Verdict | None:
        """Answers every worker's beat with its own until `until_s`; returns a verdict that another worker sends."""
        self._own = own
        self._judge.heard(0, own, monotonic())
        while not self._waiter.is_stopping and monotonic() < until_s:
            for rank, message in self._server.poll(until_s):
                if (verdict := self._take(rank, message)) is not None:
                    return verdict
        return None

    def _take(self, rank: int, message: Message | None) -> Verdict | None:
        now = monotonic()
        if message is None:
            self._judge.gone(rank, now)
        elif rank in self._settled:  # back again, but the others went on without it
            self._server.send(rank, {"verdict": self._settled[rank].message()})
        elif "goodbye" in message:
            self._judge.left(rank)
        with suppress(*_FAULTS):
            if message and "failed" in message:
                exit_code = int(message["failed"])
                self._judge.failed(rank, exit_code, now)
                self._server.tell({"told": exit_code})
                self.told_exit_code = self.told_exit_code or exit_code
            elif message and "beat" in message:
                self._judge.heard(rank, Beat.from_message(message["beat"]), now)
                self._server.send(rank, {"beat": self._own.message()})
            elif message and "verdict" in message:
                return Verdict.from_message(message["verdict"])
        return None

    def verdict(self, now: float) -> Verdict | None:
        """Returns who hangs; warns once of workers that never reached this one."""
        if now > self._warns_s:
            self._warns_s = float("inf")
            for rank in self._judge.unknown():
                self._warn(
                    f"rank {rank} does not reach the leader's port {self._server.port}, so that the leader cannot tell "
                    "what it is doing; let the workers' machines connect to each other"
                )
        return self._judge.verdict(now)

    def missed(self, now: float) -> str:
        """Returns which other workers are silent, as far as this worker knows."""
        return self._judge.missed(now)

    def tell(self, verdict: Verdict) -> None:
        """Sends a verdict to all other workers."""
        self._server.tell({"verdict": verdict.message()})

    def settle(self, verdict: Verdict, now: float) -> None:
        """Stops watching those whom the verdict condemns; they are sent the verdict if they come back."""
        for rank in verdict.ranks:
            if verdict.condemns(rank):
                self._settled[rank] = verdict
                self._judge.left(rank)
        self._judge.restart(now)

    def restart(self, now: float) -> None:
        """Restarts all clocks."""
        self._judge.restart(now)

    def leave(self, farewell: Message) -> None:
        """Tells the others that this worker leaves, and how; handles what they send meanwhile."""
        for rank, message in self._server.leave(farewell):
            self._take(rank, message)

    def close(self) -> None:
        """Closes all sockets."""
        self._server.close()


class Follower:
    """Reports to the leader, and judges the leader by its answers; without a leader it judges only itself."""

    def __init__(
        self, waiter: Waiter, offer: Any, of_leader: Judge, of_self: Judge, rank: int, patience_s: float
    ) -> None:
        """`offer`: the leader's addresses, port and token; `patience_s`: the wait for an answer before reconnecting."""
        addresses, port, token = offer
        self.is_ready = threading.Event()
        self._waiter = waiter
        self._link = Link(waiter, addresses, port, token, rank)
        self._of_leader = of_leader
        self._of_self = of_self
        self._rank = rank
        self._patience_s = patience_s
        self._asked_s: float | None = None  # when the unanswered beat was sent
        self._leader_left = self._leader_failed = False
        self._own = Beat()
        self.told_exit_code: int | None = None

    def hear(self, own: Beat, until_s: float) -> Verdict | None:
        """Sends a beat and handles what the leader sends until `until_s`; returns a verdict that the leader made."""
        self._own = own
        is_there = not (self._leader_left or self._leader_failed)
        is_due = is_there and (not self._link.is_open or self._waits_for_long())
        if is_due and self._link.connect((until_s - monotonic()) / 2):
            self._asked_s = None
            self._of_leader.back(0)
        if self._link.is_open and self._asked_s is None:
            self._asked_s = monotonic()
            self._link.send({"beat": own.message()})
        while not self._waiter.is_stopping and monotonic() < until_s:
            for message in self._link.poll(until_s):
                if (verdict := self._take(message)) is not None:
                    return verdict
        return None

    def _waits_for_long(self) -> bool:
        """Returns whether to reconnect: a new connection gets through sooner than one that lost many packets."""
        return self._asked_s is not None and monotonic() - self._asked_s > self._patience_s

    def _take(self, message: Message | None) -> Verdict | None:
        now = monotonic()
        if message is None:
            self._asked_s = None
            self._of_leader.gone(0, now)
        elif "goodbye" in message:
            self._leader_left = True
            self._of_leader.left(0)
            self._link.close()
        with suppress(*_FAULTS):
            if message and "failed" in message:
                self._leader_failed = True
                self._of_leader.failed(0, int(message["failed"]), now)
                self._link.close()
            if message and (exit_code := message.get("failed", message.get("told"))) is not None:
                self.told_exit_code = self.told_exit_code or int(exit_code)
            elif message and "beat" in message:
                self._asked_s = None
                self._of_leader.heard(0, replace(Beat.from_message(message["beat"]), idle_s=0.0), now)
                self.is_ready.set()
            elif message and "verdict" in message:
                return Verdict.from_message(message["verdict"])
        return None

    def verdict(self, now: float) -> Verdict | None:
        """Returns a verdict if the leader is silent or lost; without a leader, if this worker stalls."""
        is_unwatched = bool(self._of_leader.unknown())
        if self._leader_left or is_unwatched:
            waits = self._own.waits_for_peers and not self._leader_left  # it may be right to wait
            self._of_self.heard(self._rank, replace(self._own, idle_s=0.0) if waits else self._own, now)
            return self._of_self.verdict(now)
        return self._of_leader.verdict(now)

    def missed(self, now: float) -> str:
        """Returns whether the leader is silent, in a sentence; empty if it is not."""
        return self._of_leader.missed(now)

    def tell(self, verdict: Verdict) -> None:
        """Sends a verdict to the leader, so that a leader that was only stopped learns that it must end."""
        self._link.send({"verdict": verdict.message()})

    def settle(self, verdict: Verdict, now: float) -> None:
        """Stops watching the leader if the verdict condemns it; restarts all clocks."""
        if verdict.condemns(0):
            self._leader_left = True
            self._of_leader.left(0)
            self._link.close()
        self.restart(now)

    def restart(self, now: float) -> None:
        """Restarts all clocks."""
        self._of_leader.restart(now)
        self._of_self.restart(now)

    def leave(self, farewell: Message) -> None:
        """Tells the leader that this worker leaves, and how; handles what it sends meanwhile."""
        for message in self._link.leave(farewell):
            self._take(message)

    def close(self) -> None:
        """Closes all sockets."""
        self._link.close()
