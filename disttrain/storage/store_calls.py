"""Calls to a store: each with a deadline, retried where that may help, and cancelled on close."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from disttrain.activity import activity
from disttrain.errors import DisttrainError, FileChanged, StorageError, UsageError, redacted
from disttrain.storage.base import Patience
from disttrain.storage.failures import PERMANENT, code_of, describe, is_missing, is_transient, retry_after_s, status_of
from disttrain.storage.local import FULL

T = TypeVar("T")
_log = logging.getLogger(__name__)

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "adl": "azure",
    "http": "http",
    "https": "http",
}
LINE_EVERY_S = 5.0
_limit_s = 0.0  # see give_up_within
# HTTP errors that a retry may solve: time-out, too early, too many requests. All others below 500 are final.
TRANSIENT_STATUSES = frozenset({408, 425, 429})
TRANSIENT_CODES = frozenset({"RequestTimeout", "BadDigest", "IncompleteBody", "RequestTimeTooSkewed"})  # S3's, with 400
FINAL_STATUSES = frozenset({501, 505})  # not implemented
MISSING_STATUSES = frozenset({404, 410})
FORBIDDEN_STATUSES = frozenset({401, 403})
CHANGED_STATUSES = frozenset({412, 416})
PERMANENT_NAMES = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}
)


def give_up_within(timeout_s: float) -> None:
    """Makes this process's calls to stores end before a worker without progress is ended, after `timeout_s`.

    Then the error tells the cause, not the watchdog. 0 stands for no such time.
    """
    global _limit_s
    _limit_s = timeout_s


class StoreCalls:
    """Calls to an fsspec filesystem about one path: each with a deadline, retried, and cancelled on close."""

    def __init__(self, url: str, patience: Patience) -> None:
        self.url = url
        self.patience = patience.within(_limit_s)
        self.fs, self.path = _filesystem(url)
        self.has_answered = False  # if so, a file that is missing now was there before
        self._closed = threading.Event()
        self._next_line_s = 0.0  # when the next retry may be logged
        self._running: set[Any] = set()

    def run(self, method: str, timeout_s: float, *arguments: Any, **options: Any) -> Any:
        """Calls one of the filesystem's methods (`info`, `cat_file`) once, without retries, and returns its result."""
        if not self.fs.async_impl:
            return getattr(self.fs, method)(*arguments, **options)
        return self.finish(lambda: getattr(self.fs, f"_{method}")(*arguments, **options), timeout_s)

    def finish(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """Returns the result of `work`'s coroutine, run on the filesystem's loop; TimeoutError after `timeout_s`."""

        async def limited() -> T:
            return await asyncio.wait_for(work(), timeout_s)

        future = asyncio.run_coroutine_threadsafe(limited(), self.fs.loop)
        self._running.add(future)
        try:
            if self._closed.is_set():
                future.cancel()
            return future.result()
        finally:
            future.cancel()
            self._running.discard(future)

    def with_retries(self, task: str, attempt: Callable[[float], T], patience: Patience | None = None) -> T:
        """Retries `attempt`, which is called with its time limit in seconds, until it succeeds; returns its result.

        `task` completes the message "the store did not …".

        Raises:
            UsageError: if a retry would not help.
            StorageError: if the limits of `patience` are reached, or after `close`.
        """
        patience = patience or self.patience
        with activity("waiting for {} to {}", self.url, task):
            started = time.monotonic()
            number = 0
            while True:
                number += 1
                left_s = patience.total_s - (time.monotonic() - started)
                try:
                    return attempt(min(patience.attempt_s, left_s))
                except BaseException as error:
                    pause_s = max(min(0.1 * 2**number, 5.0), retry_after_s(error))
                    spent_s = time.monotonic() - started
                    self._raise_permanent(error, task)
                    # A server that has answered, if only with an error, may be restarting.
                    is_nobody = not self.has_answered and status_of(error) is None
                    is_last = number >= patience.attempts and is_nobody
                    if is_last or spent_s + pause_s >= patience.total_s:
                        message = f"{number} attempts in {spent_s:.0f} s, the last: {describe(error)}"
                        raise StorageError(f"{self.url}: the store did not {task}: {message}") from error
                    self._tell_retry(task, error, pause_s)
                self._closed.wait(pause_s)

    def _tell_retry(self, task: str, error: BaseException, pause_s: float) -> None:
        """Logs why a call is made again; of the retries of one object, a line every few seconds."""
        now_s = time.monotonic()
        if now_s >= self._next_line_s:
            self._next_line_s = now_s + LINE_EVERY_S
            cause = describe(error)
            _log.warning(redacted(f"{self.url}: the store did not {task}: {cause}; asking again in {pause_s:.1f} s"))

    def _raise_permanent(self, error: BaseException, task: str) -> None:
        """Raises an error if a retry would not help, as one of disttrain's errors where it is a known one."""
        if self._closed.is_set():
            raise StorageError(f"{self.url}: closed before the store could {task}") from error
        if isinstance(error, DisttrainError):
            raise error
        if isinstance(error, OSError) and error.errno in FULL:  # the disk that a copy is written to
            raise error
        status = status_of(error)
        if status == 401 and self.has_answered:  # a token that has run out and could not be renewed just now
            return
        if code_of(error) in TRANSIENT_CODES or status in TRANSIENT_STATUSES:
            return
        if status is not None and status >= 500 and status not in FINAL_STATUSES:
            return
        if status in MISSING_STATUSES or (status is None and is_missing(error)):
            if self.has_answered:
                raise FileChanged(f"{self.url}: is no longer there; put it back or name another file") from error
            raise UsageError(f"{self.url}: no such file") from error
        if status in FORBIDDEN_STATUSES or isinstance(error, PermissionError):
            raise UsageError(f"{self.url}: permission denied ({describe(error)}); check the credentials") from error
        if status in CHANGED_STATUSES and self.has_answered:
            raise FileChanged(
                f"{self.url}: the file changed while it was being read ({describe(error)}); run again when nothing "
                "writes to it"
            ) from error
        if isinstance(error, PERMANENT) and not isinstance(error, FileNotFoundError):
            raise UsageError(f"{self.url}: expected a file: {describe(error)}") from error
        if type(error).__name__ in PERMANENT_NAMES:
            raise UsageError(f"{self.url}: no credentials for this store: {describe(error)}") from error
        if status is not None:
            raise StorageError(f"{self.url}: the store refuses to {task}: {describe(error)}") from error
        if not is_transient(error):
            raise error

    def close(self) -> None:
        """Cancels running calls and refuses later ones; a second `close` does nothing."""
        self._closed.set()
        for future in list(self._running):
            future.cancel()


def _filesystem(url: str) -> tuple[Any, str]:
    """Returns the fsspec filesystem of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    protocol = url.split("://", 1)[0].split("::")[-1]
    options = _s3_options() if protocol in ("s3", "s3a") else {}
    if "::" in url:
        raise UsageError(f"{url}: URLs that are chained with '::' cannot be opened; name the file itself, or rename it")
    try:
        fs, path = url_to_fs(url, **options)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        remedy = f"pip install 'disttrain[{extra}]'" if extra else str(error)
        raise UsageError(f"{url}: {protocol}:// needs a package that is not installed: {remedy}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{url}: cannot be opened: {error}") from error
    if protocol in ("s3", "s3a"):
        fs.retries = 1  # s3fs's own, which tell nobody
    return fs, str(path)


def _s3_options() -> dict[str, Any]:
    """Returns options of s3fs by which botocore does not retry, unless the user's configuration says how it should."""
    from fsspec.config import conf

    own = conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": {"retries": {"total_max_attempts": 1}, **own}}
