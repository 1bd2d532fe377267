"""Simulates how all workers read an epoch from a store of a given bandwidth and latency, and train on it in step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from disttrain.data.reads import ReadAhead, Reads

_MOST_EVENTS = 20_000  # then the rest of the epoch is taken to go on as its simulated part did
_TINY = 1e-9

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StoreModel:
    """A store: bytes per second to all workers together and to each one, and seconds until an answer begins."""

    bandwidth: float
    worker_bandwidth: float
    latency_s: float


@dataclass(frozen=True)
class Simulated:
    """What came of an epoch.

    Attributes:
        seconds: until the last worker has trained on its last row.
        waited_s: of these, how long the training waited for bytes.
        used: the share of the store's bandwidth that was used.
        simulated: the share of the epoch that was simulated; the rest was taken to go on alike.
    """

    seconds: float
    waited_s: float
    used: float
    simulated: float


def simulate_reads(reads: Reads, ahead: ReadAhead, store: StoreModel, bytes_per_s: float) -> Simulated:
    """Simulates one epoch.

    Each worker fetches its blocks in turn, `num_ahead` of each shard while one is used. The store shares its bandwidth
    equally among all fetches that are under way. The workers train in step, each on up to `bytes_per_s` of its bytes:
    where one waits for a block, all wait.
    """
    return _Epoch(reads, ahead, store, bytes_per_s).run()


class _Epoch:
    """The state of all workers: arrays [workers], and of their fetches [workers, slots]."""

    def __init__(self, reads: Reads, ahead: ReadAhead, store: StoreModel, bytes_per_s: float) -> None:
        self._store = store
        self._total = np.maximum(reads.num_bytes.astype(np.float64), 1.0)
        self._block = self._total / np.maximum(reads.blocks, 1)  # a worker's blocks are taken as equally long
        self._speed = bytes_per_s * self._total / self._total.max()  # in step, all end at the same time
        shards = max(int(reads.shards.max()), 1)
        self._num_slots = ahead.threads
        self._held = shards * (ahead.num_ahead + 1)  # blocks in memory at a time
        shape = (len(self._total), self._num_slots)
        self._latency = np.zeros(shape)
        self._left = np.zeros(shape)  # bytes of a fetch that are still to come; 0: the slot is free
        self._size = np.zeros(shape)  # bytes of a slot's block
        self._asked = np.zeros(len(self._total))  # blocks that were asked for
        self._fetched = np.zeros(len(self._total))  # bytes of blocks that have come whole
        self._used = np.zeros(len(self._total))  # bytes that were trained on
        self._now_s = self._waited_s = 0.0

    def run(self) -> Simulated:
        """Steps from event to event."""
        for _ in range(_MOST_EVENTS):
            self._ask()
            if not self._step():
                break
        done = float((self._used / self._total).min())
        seconds = self._now_s / max(done, _TINY)
        used = float(self._total.sum()) / max(self._store.bandwidth * seconds, _TINY)
        return Simulated(seconds, self._waited_s / max(done, _TINY), used, done)

    def _ask(self) -> None:
        """Begins fetches where a slot is free, a block is left and there is memory for it."""
        for slot in range(self._num_slots):
            begun = np.floor(self._used / self._block + _TINY) + self._held
            has_more = self._asked * self._block < self._total - 0.5
            starts = (self._left[:, slot] <= 0) & has_more & (self._asked < begun)
            rest = np.minimum(self._block, self._total - self._asked * self._block)
            self._left[starts, slot] = self._size[starts, slot] = rest[starts]
            self._latency[starts, slot] = self._store.latency_s
            self._asked[starts] += 1

    def _step(self) -> bool:
        """Goes to the next event; returns whether anything is left."""
        is_open = self._left > 0
        if not is_open.any() and (self._total - self._used < 0.5).all():
            return False
        flows = is_open & (self._latency <= _TINY)
        of_worker = flows.sum(axis=1, keepdims=True)
        rate = np.where(flows, self._store.worker_bandwidth / np.maximum(of_worker, 1), 0.0)
        if flows.any():
            rate = np.where(flows, np.minimum(rate, self._store.bandwidth / flows.sum()), 0.0)
        ready = self._fetched - self._used
        left = self._total - self._used
        waits = bool(((ready < 0.5) & (left >= 0.5)).any())  # in step: if one waits, all do
        use = np.zeros_like(self._speed) if waits else self._speed
        times = [self._latency[is_open & ~flows], self._left[flows] / rate[flows]]
        if not waits and left.max() >= 0.5:
            in_block = self._block - np.mod(self._used + 1e-3, self._block)
            steps = np.minimum(np.minimum(ready, in_block + 1e-3), left) / self._speed
            times.append(steps[left >= 0.5])
        duration = float(min((one.min() for one in times if one.size), default=0.0))
        duration = max(duration, 0.0)
        self._now_s += duration
        self._waited_s += duration if waits else 0.0
        self._latency = np.where(is_open & ~flows, np.maximum(self._latency - duration, 0.0), self._latency)
        came = np.where(flows, np.minimum(rate * duration, self._left), 0.0)
        ended = flows & (self._left - came < 0.5)
        self._left = np.where(ended, 0.0, self._left - came)
        self._fetched += np.where(ended, self._size, 0.0).sum(axis=1)
        self._used = np.minimum(self._used + use * duration, self._total)
        self._used = np.where(self._total - self._used < 0.5, self._total, self._used)
        return True
