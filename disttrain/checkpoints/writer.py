"""Saves checkpoints while training goes on: one is being written, and at most one waits, the newest submitted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from disttrain.activity import activity
from disttrain.checkpoints.file import Checkpoint
from disttrain.checkpoints.store import CheckpointStore
from disttrain.errors import DisttrainError, StorageError
from disttrain.threads import DaemonPool

CLOSE_S = 30.0  # how long the last checkpoint may still take when the run ends without waiting for it


def _waiting() -> AbstractContextManager[None]:
    return activity("waiting for checkpoints to be saved", waits_for_threads=True)


@dataclass(frozen=True)
class _Order:
    checkpoint: Checkpoint
    values: Mapping[str, float] | None
    must: bool


class CheckpointWriter:
    """Hands checkpoints to a store in a background thread.

    It keeps at most two in memory: the one that is being written and the one that waits.
    """

    def __init__(self, store: CheckpointStore, on_failure: Callable[[str], None]) -> None:
        """`on_failure` is called in the writer's thread, once per checkpoint that was not saved, with the reason."""
        self._store = store
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._waiting: _Order | None = None
        self._is_writing = False
        self._closed = False
        self._failure: Exception | None = None
        self._last_s = 0.0
        self._thread = DaemonPool(1, "checkpoint")

    @property
    def last_s(self) -> float:
        """Seconds that the last checkpoint took to be saved."""
        return self._last_s

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written or waits."""
        return self._is_writing or self._waiting is not None

    def submit(self, checkpoint: Checkpoint, values: Mapping[str, float] | None = None, *, must: bool = False) -> bool:
        """Hands over a checkpoint to be saved soon; returns False, and drops it, if one that waits must be saved first.

        A newer checkpoint replaces one that still waits. One that `must` be saved (an epoch's end, the last one of a
        run) is never replaced: while it waits, another that must be saved blocks here until there is room, and any
        other is dropped. In all other cases this returns at once. Nothing may change the checkpoint's arrays
        afterwards.

        Raises:
            StorageError: if the writer is closed.
        """
        with self._changed:
            if must:
                with _waiting():
                    self._changed.wait_for(lambda: self._closed or self._waiting is None or not self._waiting.must)
            if self._closed:
                raise StorageError(f"{self._store.url}: the checkpoint comes after its writer was closed")
            if self._waiting is not None and self._waiting.must:
                return False
            self._waiting = _Order(checkpoint, values, must)
            if not self._is_writing:
                self._is_writing = True
                self._thread.submit(self._write_all)
            return True

    def wait(self, timeout_s: float) -> None:
        """Waits until all that was submitted is saved.

        Raises:
            DisttrainError: the error that kept the last one from being saved.
            StorageError: if that takes longer than `timeout_s` seconds.
        """
        with self._changed, _waiting():
            if not self._changed.wait_for(lambda: not self.is_busy, timeout_s):
                raise StorageError(f"{self._store.url}: the checkpoint was not saved within {timeout_s:.0f} s")
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """Takes no more, and gives what was submitted half a minute to be saved; a second call does nothing."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            with _waiting():
                self._changed.wait_for(lambda: not self.is_busy, CLOSE_S)
            self._waiting = None
        self._thread.close()
        self._store.close()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_all(self) -> None:
        """Writes checkpoints in the writer's thread, until none waits."""
        while True:
            with self._changed:
                order, self._waiting = self._waiting, None
                self._is_writing = order is not None
                self._changed.notify_all()
            if order is None:
                return
            try:
                self._write(order)
            except Exception as error:  # raised by on_failure itself
                self._failure = error
            del order  # else its arrays would be kept until the next one

    def _write(self, order: _Order) -> None:
        begun_s = time.perf_counter()
        failure = None
        try:
            self._store.save(order.checkpoint, order.values)
        except Exception as error:
            failure = error
        self._last_s = time.perf_counter() - begun_s
        self._failure = failure
        if failure is not None:
            text = str(failure) if isinstance(failure, DisttrainError) else f"{type(failure).__name__}: {failure}"
            self._on_failure(text)
