"""What is gathered from all workers for a checkpoint, and what need not be; test_resume.py tests the rest."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from disttrain.distributed.backend import World
from disttrain.training.state import equal_everywhere


class Thread:
    """A worker that is a thread; only the part of a backend that gathers."""

    def __init__(self, rank, gathered, barrier):
        self.world = World(rank, size=len(gathered))
        self._gathered, self._barrier = gathered, barrier

    def gather(self, value):
        self._gathered[self.world.rank] = value
        self._barrier.wait(10)
        return list(self._gathered)


def equal_among(*workers):
    """Returns what each of these workers, mappings of name to array [its replicas, ...], finds equal everywhere."""
    gathered, barrier = [None] * len(workers), threading.Barrier(len(workers))
    with ThreadPoolExecutor(len(workers)) as pool:
        calls = [
            pool.submit(equal_everywhere, held, Thread(rank, gathered, barrier)) for rank, held in enumerate(workers)
        ]
        found = [call.result() for call in calls]
    assert sum(len(digest) for worker in gathered for digests in worker for digest in digests) < 2000
    return found


NAN = np.full((1, 3), np.nan, np.float32)
ONE, OTHER = np.ones((1, 300, 300), np.float32), np.zeros((1, 300, 300), np.float32)

# The same variable on the first and on the second worker, and whether nobody need send it.
TABLE = {
    "a frozen layer's weights": (ONE, ONE.copy(), True),
    "one number that differs": (ONE, np.where(np.arange(300) == 7, np.float32(2), ONE), False),
    "other statistics": (ONE, OTHER, False),
    "the same bytes of another NaN": (NAN, NAN.copy(), True),
    "replicas of one worker that differ": (np.concatenate([ONE, OTHER]), np.concatenate([ONE, OTHER]), False),
    "replicas that are all the same": (np.concatenate([ONE, ONE]), np.concatenate([ONE, ONE]), True),
    "a number without a shape": (np.ones(1, np.int64), np.ones(1, np.int64), True),
}


@pytest.mark.parametrize("what", TABLE)
def test_what_is_the_same_everywhere_is_found_by_its_digest_alone(what):
    first, second, is_equal = TABLE[what]
    among = {"replica/00000": first, "replica/00001": OTHER}, {"replica/00000": second, "replica/00001": ONE}
    assert equal_among(*among) == [["replica/00000"] if is_equal else []] * 2
