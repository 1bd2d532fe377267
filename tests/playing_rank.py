"""A process that plays one rank of a run under the watchdog: what its main thread does is given in words.

    playing_rank.py DIRECTORY RANK SIZE TIMEOUT WORDS [elastic]

WORDS is a comma-separated list: `works:2` makes progress for 2 s, `reads` and `waits` stand still for ever, the one in
reading, the other in waiting for peers; `fails` raises an error, `again` starts another watchdog.
"""

import os
import pickle
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from disttrain.activity import activity, note_position, touch
from disttrain.distributed.backend import World
from disttrain.watchdog.watchdog import Watchdog

FOR_EVER = 1e9


class Files:
    """An exchange by files, as often as is wanted."""

    def __init__(self, directory: Path, rank: int, size: int) -> None:
        self.directory, self.rank, self.size = directory, rank, size
        self.calls = 0

    def __call__(self, value):
        if (self.directory / "machines").exists():  # each rank on another: none can end another's process
            timeout_s, process, offer = value
            value = (timeout_s, replace(process, host=f"host{self.rank}", machine=f"machine {self.rank}"), offer)
        paths = [self.directory / f"{self.calls}-{rank}" for rank in range(self.size)]
        self.calls += 1
        written = paths[self.rank].with_suffix(".part")
        written.write_bytes(pickle.dumps(value))
        written.rename(paths[self.rank])
        while not all(path.exists() for path in paths):
            time.sleep(0.01)
        values = [pickle.loads(path.read_bytes()) for path in paths]
        proxy = self.directory / f"proxy-{self.rank}"
        if proxy.exists():  # this rank reaches the leader by another port
            timeout_s, process, (_, _, token) = values[0]
            offer = ([(int(socket.AF_INET), "127.0.0.1")], int(proxy.read_text()), token)
            values[0] = (timeout_s, process, offer)
        return values


def play(word: str) -> None:
    name, _, seconds = word.partition(":")
    until = time.monotonic() + float(seconds or FOR_EVER)
    if name == "fails":
        raise ValueError("as it was told to")
    what = {"works": "training", "reads": "reading bytes 5 to 9 of s3://a/b.csv", "waits": "averaging gradients"}
    with activity(what[name], waits_for_peers=name == "waits"):
        step = 0
        while time.monotonic() < until:
            time.sleep(0.02)
            if name == "works":
                step += 1
                touch()
                note_position(1, step)


def main() -> None:
    directory, rank, size, timeout_s, words = sys.argv[1:6]
    world, say = World(int(rank), int(size)), lambda verdict: print("hung:", verdict.ranks, verdict.kind, flush=True)
    elastic = {"on_hang": say, "consequence": "the run goes on without it"} if sys.argv[6:] else {}
    exchange = Files(Path(directory), int(rank), int(size))
    num_files = len(os.listdir("/proc/self/fd"))
    for part in words.split(",again,"):
        with Watchdog(world, exchange, float(timeout_s), **elastic):
            print("ready", flush=True)
            for word in part.split(","):
                play(word)
        assert threading.enumerate() == [threading.main_thread()]
        assert len(os.listdir("/proc/self/fd")) == num_files


if __name__ == "__main__":
    main()
