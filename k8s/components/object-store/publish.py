"""Copies what a run leaves in DISTTRAIN_OUTPUT to RESULTS_URL: once a minute what has changed, and at the end too.

In pods without the leader there is nothing to copy. Checkpoints go to the store by themselves.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import fsspec

EVERY_S = 60.0
TRIES, PAUSE_S = 4, 5.0  # at the end, within the pod's terminationGracePeriodSeconds


def main() -> int:
    """Until it is told to end, which Kubernetes does when the training has ended; whether the last copy was made."""
    output, url = Path(os.environ["DISTTRAIN_OUTPUT"]), os.environ["RESULTS_URL"].rstrip("/")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    copied: dict[str, tuple[int, int]] = {}
    while not ended.wait(EVERY_S):
        copy(output, url, copied)
    for left in reversed(range(TRIES)):
        if copy(output, url, copied):
            return 0
        time.sleep(PAUSE_S if left else 0)
    return 1


def copy(output: Path, url: str, copied: dict[str, tuple[int, int]]) -> bool:
    """Copies the files that are new or have changed; says what failed, and returns whether nothing did."""
    done = True
    for path in sorted(output.glob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        found = path.stat()
        state = (found.st_mtime_ns, found.st_size)
        if copied.get(path.name) == state:
            continue
        try:
            store, place = fsspec.url_to_fs(f"{url}/{path.name}")
            store.put_file(str(path), place)
        except Exception as error:  # each store has its own
            print(f"publish: {url}/{path.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            done = False
        else:
            copied[path.name] = state
            print(f"publish: {url}/{path.name}", flush=True)
    return done


if __name__ == "__main__":
    sys.exit(main())
