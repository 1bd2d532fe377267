"""Background threads that never outlive the program: a small pool, and a bounded queue that carries errors along.

And how many cores there are for them.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def num_cores(sharing: int = 1) -> int:
    """Cores that each of so many processes may use, which share those of this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // sharing)


class DaemonPool:
    """Runs calls in a few daemon threads, which, unlike an executor's, do not hold up the end of the program."""

    def __init__(self, num_threads: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._num_threads = num_threads
        self._closing = threading.Lock()
        self._closed = False
        for number in range(num_threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run `call` as soon as a thread is free; its result, or what it raised, is the future's."""
        future: Future[T] = Future()
        with self._closing:
            if self._closed:
                future.cancel()
            else:
                self._jobs.put((future, call))
        return future

    def close(self) -> None:
        """Cancel what has not begun, without waiting for what is running; a second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        try:
            while job := self._jobs.get_nowait():
                job[0].cancel()
        except queue.Empty:
            pass
        for _ in range(self._num_threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while job := self._jobs.get():
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            del job, future, call  # or the last result would be kept until the next job


class Handover(Generic[T]):
    """A bounded queue from one thread to another; what fails in the one is raised in the other."""

    def __init__(self, depth: int) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Wait for a free place and put the item there; False if nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def end(self, error: BaseException | None = None) -> None:
        """After the items put so far there are no more, or only this error."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def get(self) -> T:
        """Wait for the next item; raises StopIteration at the end, or the error that the other thread ended with."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ended or self._items)
            if self._items and not self._closed:
                self._changed.notify_all()
                return self._items.popleft()
            if self._error is not None and not self._closed:
                raise self._error
            raise StopIteration

    def close(self) -> None:
        """Nobody wants more: waiting ends on both sides, and what was put is let go."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
