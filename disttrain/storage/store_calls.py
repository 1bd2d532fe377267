"""Calls to a store: each with a deadline, retried where that may help, and cancelled on close."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from disttrain.activity import activity
from disttrain.errors import DisttrainError, FileChanged, StorageError, UsageError
from disttrain.storage.base import Patience

T = TypeVar("T")

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
# Packages whose exceptions mean that a store did not answer properly; not all of these exceptions are OSErrors.
STORE_PACKAGES = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3"})
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
# HTTP errors that a retry may solve: time-out, too early, too many requests. All others below 500 are final.
TRANSIENT_STATUSES = frozenset({408, 425, 429})
MISSING_STATUSES = frozenset({404, 410})
FORBIDDEN_STATUSES = frozenset({401, 403})
CHANGED_STATUSES = frozenset({412, 416})
PERMANENT_NAMES = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}
)


class StoreCalls:
    """Calls to an fsspec filesystem about one path: each with a deadline, retried, and cancelled on close."""

    def __init__(self, url: str, patience: Patience) -> None:
        self.url = url
        self.patience = patience
        self.fs, self.path = _filesystem(url)
        self.has_answered = False  # if so, a file that is missing now was there before
        self._closed = threading.Event()
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
                    pause_s = min(0.1 * 2**number, 5.0)
                    spent_s = time.monotonic() - started
                    self._raise_permanent(error, task)
                    is_last = number >= patience.attempts and not self.has_answered  # if it has, it may be restarting
                    if is_last or spent_s + pause_s >= patience.total_s:
                        message = f"{number} attempts in {spent_s:.0f} s, the last: {_describe(error)}"
                        raise StorageError(f"{self.url}: the store did not {task}: {message}") from error
                self._closed.wait(pause_s)

    def _raise_permanent(self, error: BaseException, task: str) -> None:
        """Raises an error if a retry would not help, as one of disttrain's errors where it is a known one."""
        if self._closed.is_set():
            raise StorageError(f"{self.url}: closed before the store could {task}") from error
        if isinstance(error, DisttrainError):
            raise error
        status = _status(error)
        if status is not None and (status >= 500 or status in TRANSIENT_STATUSES):
            return
        if status in MISSING_STATUSES or (status is None and _is_missing(error)):
            if self.has_answered:
                raise FileChanged(f"{self.url}: is no longer there; put it back or name another file") from error
            raise UsageError(f"{self.url}: no such file") from error
        if status in FORBIDDEN_STATUSES or isinstance(error, PermissionError):
            raise UsageError(f"{self.url}: permission denied ({_describe(error)}); check the credentials") from error
        if status in CHANGED_STATUSES and self.has_answered:
            raise FileChanged(
                f"{self.url}: the file changed while it was being read ({_describe(error)}); run again when nothing "
                "writes to it"
            ) from error
        if isinstance(error, PERMANENT) and not isinstance(error, FileNotFoundError):
            raise UsageError(f"{self.url}: expected a file: {_describe(error)}") from error
        if type(error).__name__ in PERMANENT_NAMES:
            raise UsageError(f"{self.url}: no credentials for this store: {_describe(error)}") from error
        if status is not None:
            raise StorageError(f"{self.url}: the store refuses to {task}: {_describe(error)}") from error
        if not _is_transient(error):
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
    if "::" in url:
        raise UsageError(f"{url}: URLs that are chained with '::' cannot be opened; name the file itself, or rename it")
    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        remedy = f"pip install 'disttrain[{extra}]'" if extra else str(error)
        raise UsageError(f"{url}: {protocol}:// needs a package that is not installed: {remedy}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{url}: cannot be opened: {error}") from error
    return fs, str(path)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception and those that it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status in an error of aiohttp, botocore, gcsfs or Azure's package; None if it has none."""
    for cause in _chain(error):
        response = getattr(cause, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        found = metadata.get("HTTPStatusCode")
        is_googles = type(cause).__module__.startswith(("gcsfs", "google"))
        # `code` only for Google's packages: aiohttp sets it to 400 for an answer that it cannot parse.
        for name in ("status", "status_code", *["code"] * is_googles):
            found = getattr(cause, name, None) if found is None else found
        if isinstance(found, int) and 400 <= found < 600:
            return found
    return None


def _is_missing(error: BaseException) -> bool:
    """Returns whether the store said that the file does not exist, and did not just fail to answer."""
    if not isinstance(error, FileNotFoundError):
        return False
    return not any(_is_transient(cause) and not isinstance(cause, PERMANENT) for cause in _chain(error))


def _is_transient(error: BaseException) -> bool:
    """Returns whether a retry may help: after I/O errors, time-outs and the store packages' own exceptions."""
    if isinstance(error, (OSError, TimeoutError, asyncio.TimeoutError)):
        return True
    return any(kind.__module__.split(".")[0] in STORE_PACKAGES for kind in type(error).__mro__)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
