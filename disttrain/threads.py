"""Background threads that never outlive the program: a small pool, and a bounded queue that passes errors on.

Also counts the cores that are available to them.
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
    """Returns the cores for each process if `sharing` processes share the cores of this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // sharing)


class DaemonPool:
    """Runs calls in a few daemon threads, which, unlike an executor's, do not delay the program's exit."""

    def __init__(self, num_threads: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._num_threads = num_threads
        self._closing = threading.Lock()
        self._closed = False
        for number in range(num_threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Runs `call` as soon as a thread is free; the future gets its result, or what it raised."""
        future: Future[T] = Future()
        with self._closing:
            if self._closed:
                future.cancel()
            else:
                self._jobs.put((future, call))
        return future

    def close(self) -> None:
        """Cancels calls that have not begun, without waiting for running ones; a second `close` does nothing."""
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
            del job, future, call  # else the last result would be kept until the next job


class Handover(Generic[T]):
    """A bounded queue from one thread to another; an error in the first is raised in the second."""

    def __init__(self, depth: int) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Waits until there is room and appends the item; returns False if the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def end(self, error: BaseException | None = None) -> None:
        """Marks the end of the items; after the last one, `get` raises `error` if there is one."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def get(self) -> T:
        """Waits for the next item; raises StopIteration at the end, or the error that the other thread ended with."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ended or self._items)
            if self._items and not self._closed:
                self._changed.notify_all()
                return self._items.popleft()
            if self._error is not None and not self._closed:
                raise self._error
            raise StopIteration

    def close(self) -> None:
        """Closes the queue: waiting ends on both sides, and the items still in it are dropped."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
