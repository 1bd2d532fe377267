"""Finds the worker that hangs, says which one it is and what it was doing, and ends what would wait for it forever.

Every worker has a thread that tells the leader once a second what the worker is doing, independently of the
all-reduce. The leader judges the workers; the workers judge the leader by its silence.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, sleep
from types import TracebackType
from typing import Any

from disttrain import activity
from disttrain.distributed.backend import World
from disttrain.distributed.json_lines import Address, Message, Waiter, address_for, listen, network, own_addresses
from disttrain.distributed.links import Server, farewell_message
from disttrain.errors import DisttrainError, PeerError
from disttrain.watchdog.judge import Beat, Judge, Verdict
from disttrain.watchdog.processes import Process, end_at_once, is_running, kill, this_process, within
from disttrain.watchdog.roles import Alone, Follower, Leader

BEAT_S = 1.0
GRACE_S = 5.0  # time for a lost worker to connect again, or for the all-reduce to fail by itself
LATE_S = 2.0  # if a beat is later than this, the thread itself was stopped, and its timings mean nothing
READY_S = 2.0  # how long the start waits for the leader's first answer
SPEAK_S = 2.0
PRINTER_STAYS_S = 1.5  # how long a worker that misses the leader stays, so that higher ranks see it and print nothing

Exchange = Callable[[Any], Sequence[Any]]


class Watchdog:
    """Watches over this worker and, on the leader, over all; use it in a `with` statement.

    Starting is a collective. When the `with` statement ends with an error, the others are sent its exit code instead of
    a goodbye. They then end too, if the all-reduce does not fail for them first, and leave it to this worker to say
    why.
    """

    def __init__(
        self,
        world: World,
        exchange: Exchange,
        timeout_s: float | None,
        *,
        on_hang: Callable[[Verdict], None] | None = None,
        consequence: str = "the run ends",
        grace_s: float = GRACE_S,
    ) -> None:
        """Keeps the settings; watching starts when the `with` statement is entered.

        Args:
            world: this worker's rank and the number of workers.
            exchange: returns every worker's value, in the order of ranks. It is called twice on start: for the workers'
                processes and addresses, then for the address at which the leader listens.
            timeout_s: a worker hangs after this long without progress; None or 0 on any worker switches all watching
                off.
            on_hang: called in the watching thread, after the verdict was printed and a silent process of this machine
                was killed. Without it, and always on a worker that the verdict condemns, the process ends with the
                verdict's exit code.
            consequence: what the printed verdict says will happen.
            grace_s: between a worker's end and the verdict that it is lost.
        """
        self._world = world
        self._exchange = exchange
        self._timeout_s = timeout_s or 0.0
        self._on_hang = on_hang
        self._consequence = consequence
        self._grace_s = grace_s
        self._processes: Mapping[int, Process] = {}
        self._thread: threading.Thread | None = None
        self._watcher: Alone | Leader | Follower | None = None
        self._farewell: Message | None = None

    def __enter__(self) -> Watchdog:
        world, waiter, server = self._world, Waiter(), None
        offer = (own_addresses(), 0, network())
        try:
            facts: Sequence[Any] = [(self._timeout_s, this_process(), offer)]
            if world.size > 1:
                facts = self._exchange(facts[0])
                if world.is_leader:
                    address = _address_of_run([(addresses, there) for _, _, (addresses, _, there) in facts[1:]])
                    server = Server(waiter, listen(address))
                    offer = ([address] if address is not None else own_addresses(), server.port, server.token)
                facts = self._exchange((self._timeout_s, this_process(), offer))
            self._timeout_s = min(timeout_s for timeout_s, _, _ in facts)
            self._processes = {rank: process for rank, (_, process, _) in enumerate(facts)}
            if self._timeout_s:
                self._start(waiter, server, facts[0][2])
        finally:
            if self._thread is None:
                if server is not None:
                    server.close()
                waiter.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    @property
    def told_exit_code(self) -> int | None:
        """The exit code of the first other worker that reported its failure, if any; that one prints the reason."""
        return self._watcher.told_exit_code if self._watcher is not None else None

    def missed(self) -> str:
        """Describes which other workers are silent, in a sentence; empty if none is known to be."""
        return self._watcher.missed(monotonic()) if self._watcher is not None else ""

    def close(self, error: BaseException | None = None) -> None:
        """Stops watching and being watched; a second call does nothing.

        Without an error, the others are told and do not miss this worker. With an error that this worker prints itself,
        they are sent its exit code. With any other error, such as a signal's, they take this worker for lost.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            self._farewell = _farewell_for(error)
            self._waiter.stop()
            if thread is not threading.current_thread():
                thread.join()

    def _start(self, waiter: Waiter, server: Server | None, offer: Any) -> None:
        world, now = self._world, monotonic()

        def judge(ranks: Sequence[int]) -> Judge:
            return Judge(ranks, self._processes, now, timeout_s=self._timeout_s, grace_s=self._grace_s)

        self._waiter = waiter
        self._beat_s = min(BEAT_S, self._timeout_s / 5)
        self._late_s = min(LATE_S, self._timeout_s / 4)
        self._fresh_s = now
        watcher: Alone | Leader | Follower
        if world.size == 1:
            watcher = Alone(waiter, judge([world.rank]), world.rank)
        elif server is not None:
            watcher = Leader(waiter, server, judge(range(world.size)), self._warn)
        else:
            watcher = Follower(waiter, offer, judge([0]), judge([world.rank]), world.rank, self._timeout_s / 3)
        self._watcher = watcher
        self._thread = threading.Thread(target=self._run, args=(watcher,), name="watchdog", daemon=True)
        self._thread.start()
        watcher.is_ready.wait(READY_S)

    def _run(self, watcher: Alone | Leader | Follower) -> None:
        try:
            while not self._waiter.is_stopping:
                self._watch(watcher)
            if self._farewell is not None:
                watcher.leave(self._farewell)
        except Exception:
            self._say(f"the watchdog failed, and a worker that hangs will not be found:\n{traceback.format_exc()}")
        finally:
            watcher.close()
            self._waiter.close()

    def _watch(self, watcher: Alone | Leader | Follower) -> None:
        """Does one beat: reports what this worker does, receives what the others do, and judges."""
        begun_s = monotonic()
        until_s = begun_s + self._beat_s
        if (verdict := watcher.hear(self._own_beat(begun_s), until_s)) is not None:
            self._act(watcher, verdict, was_heard=True)
        elif not self._waiter.is_stopping:
            now = monotonic()
            if now - until_s > self._late_s:
                self._fresh_s = now
                watcher.restart(now)
            elif (verdict := watcher.verdict(now)) is not None:
                self._act(watcher, verdict, was_heard=False)

    def _own_beat(self, now: float) -> Beat:
        idle_s = now - max(activity.last_progress_s(), self._fresh_s)
        return Beat(max(0.0, idle_s), activity.describe(), activity.waits_for_peers(), activity.position())

    def _act(self, watcher: Alone | Leader | Follower, verdict: Verdict, *, was_heard: bool) -> None:
        """Prints a verdict of its own, sends it to the others, ends those who must end, then calls `on_hang`."""
        rank = self._world.rank
        if not was_heard:
            if self._speaks(verdict):
                self._say(f"{verdict.text}; {self._consequence}")
            watcher.tell(verdict)
            if not self._world.is_leader and rank not in verdict.ranks:
                sleep(PRINTER_STAYS_S)
        if verdict.kind == "silent":
            for silent in verdict.ranks:
                if silent != rank:
                    kill(self._processes[silent])
        if self._on_hang is None or verdict.condemns(rank):
            end_at_once(verdict.exit_code)
        self._on_hang(verdict)
        self._fresh_s = monotonic()
        watcher.settle(verdict, self._fresh_s)

    def _speaks(self, verdict: Verdict) -> bool:
        """Returns whether this worker prints the verdict.

        The leader prints for all. Where the leader is missing, the lowest rank that still runs on each machine prints.
        A worker that the verdict names prints it too. Nobody does where the worker that failed printed the error
        itself.
        """
        rank = self._world.rank
        if verdict.kind == "failed":
            return False
        if self._world.is_leader or rank in verdict.ranks:
            return True
        lower = [process for other, process in self._processes.items() if other < rank and other not in verdict.ranks]
        return not any(is_running(process) for process in lower)

    def _warn(self, text: str) -> None:
        self._say(f"warning: {text}")

    def _say(self, text: str) -> None:
        where = f" rank {self._world.rank}:" if self._world.size > 1 else ""
        start = "\n" if sys.stderr is not None and sys.stderr.isatty() else ""  # below a line of progress
        line = f"{start}disttrain:{where} {text}\n".encode(errors="replace")
        within(SPEAK_S, lambda: os.write(2, line))


def _address_of_run(others: Sequence[tuple[Sequence[Address], str]]) -> Address | None:
    """Returns where the leader listens: on loopback if all are in its network, else where it reaches all others from.

    Args:
        others: each other worker's addresses and network.

    Returns:
        None for all interfaces, where there are several ways to the others.
    """
    here = network()
    away = [addresses for addresses, there in others if not here or there != here]
    return address_for(away) if away else (int(socket.AF_INET), "127.0.0.1")


def _farewell_for(error: BaseException | None) -> Message | None:
    """Returns the last message of a worker that ends with this error; None if it will not print the reason itself."""
    if error is None:
        return farewell_message(None)
    if not isinstance(error, Exception) or (isinstance(error, PeerError) and not error.is_explained):
        return None
    return farewell_message(getattr(error, "exit_code", DisttrainError.exit_code))
