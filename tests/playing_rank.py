"""A process that plays one rank of a run under the watchdog; see watched_ranks.py, which starts it.

    playing_rank.py SCRIPT

SCRIPT is a Script as JSON.
"""

import json
import os
import pickle
import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from disttrain.activity import activity, note_position, touch
from disttrain.distributed.backend import World
from disttrain.watchdog.watchdog import Watchdog

FOR_EVER = 1e9
# What the main thread names while it plays an act.
ACTIVITIES = {
    "works": "training",
    "reads": "reading bytes 5 to 9 of s3://a/b.csv",
    "waits": "averaging gradients",
}


@dataclass(frozen=True)
class Script:
    """What a rank does, and where it is.

    Attributes:
        directory: where ranks exchange values.
        acts: played one after another: `works` makes progress, `reads` stands still while it reads, `waits` while it
            waits for its peers, each for ever or, as in `works:2`, for so many seconds; `fails` raises an error, and
            `again` leaves the watchdog and enters another one.
        own_machine: whether each rank says that it is on a machine of its own, so that none can end another's process.
        leader_port: by which this rank reaches the leader, where it is not the leader's own.
        is_elastic: whether the run goes on without a rank that hangs.
    """

    directory: str
    rank: int
    size: int
    timeout_s: float
    acts: list[str]
    own_machine: bool = False
    leader_port: int | None = None
    is_elastic: bool = False


class Exchange:
    """Gives each rank's value to all ranks, by files; called as often as wanted, by all ranks alike."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls = 0

    def __call__(self, value):
        script = self.script
        if script.own_machine:
            timeout_s, process, offer = value
            value = (timeout_s, replace(process, host=f"host{script.rank}", machine=f"machine {script.rank}"), offer)
        paths = [Path(script.directory) / f"{self.calls}-{rank}" for rank in range(script.size)]
        self.calls += 1
        written = paths[script.rank].with_suffix(".part")
        written.write_bytes(pickle.dumps(value))
        written.rename(paths[script.rank])
        while not all(path.exists() for path in paths):
            time.sleep(0.01)
        values = [pickle.loads(path.read_bytes()) for path in paths]
        if script.leader_port is not None:
            timeout_s, process, (_, _, token) = values[0]
            values[0] = (timeout_s, process, ([(int(socket.AF_INET), "127.0.0.1")], script.leader_port, token))
        return values


def play(act: str) -> None:
    name, _, seconds = act.partition(":")
    until = time.monotonic() + float(seconds or FOR_EVER)
    if name == "fails":
        raise ValueError("as it was told to")
    with activity(ACTIVITIES[name], waits_for_peers=name == "waits"):
        step = 0
        while time.monotonic() < until:
            time.sleep(0.02)
            if name == "works":
                step += 1
                touch()
                note_position(1, step)


def watched(script: Script, exchange: Exchange) -> Watchdog:
    if not script.is_elastic:
        return Watchdog(World(script.rank, script.size), exchange, script.timeout_s)
    return Watchdog(
        World(script.rank, script.size),
        exchange,
        script.timeout_s,
        on_hang=lambda verdict: print("hung:", verdict.ranks, verdict.kind, flush=True),
        consequence="the run goes on without it",
    )


def main() -> None:
    script = Script(**json.loads(sys.argv[1]))
    exchange = Exchange(script)
    num_files = len(os.listdir("/proc/self/fd"))
    for acts in ",".join(script.acts).split(",again,"):
        with watched(script, exchange):
            print("ready", flush=True)
            for act in acts.split(","):
                play(act)
        assert threading.enumerate() == [threading.main_thread()], "a watchdog leaves no thread"
        assert len(os.listdir("/proc/self/fd")) == num_files, "a watchdog leaves no file open"


if __name__ == "__main__":
    main()
