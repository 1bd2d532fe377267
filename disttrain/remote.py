"""Objects of any store that fsspec opens, read by ranges: lengths checked, retries and waiting bounded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from disttrain.activity import activity, touch
from disttrain.errors import DisttrainError, FileChanged, StorageError, UsageError
from disttrain.reader import UNVERSIONED, FileInfo, Patience

T = TypeVar("T")

REMOTE_BLOCK_BYTES = 8 << 20  # large enough to hide a store's latency of some 50 ms
PIECE_BYTES = 2 << 20  # a remote block is fetched as this many bytes each, at the same time

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
# What tells one version of an object from the next, the surest first; stores spell it differently.
VERSION_FIELDS = (
    ("ETag", "etag", "md5Hash", "Content-MD5", "content_md5", "Digest", "uid"),
    ("LastModified", "last_modified", "Last-Modified", "mtime", "modified", "updated", "created"),
)
# The packages whose exceptions mean that a store did not answer well, though not all of them are an OSError.
STORE_PACKAGES = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3"})
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
HTTP_ERRORS = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError, 410: FileNotFoundError}
PERMANENT_NAMES = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}
)


class RemoteReader:
    """An object of a store that fsspec knows, read by ranges, several pieces of a large one at the same time."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._object = _Object(url, patience)
        self.info = self._object.file_info()
        self.block_bytes = REMOTE_BLOCK_BYTES

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer; StorageError once the store's patience is used up or it answers with other lengths."""
        if not buffer:
            return
        stop = offset + len(buffer)
        starts = range(offset, stop, PIECE_BYTES)
        pieces = self._object.fetch([(start, min(start + PIECE_BYTES, stop)) for start in starts], self.info.size_bytes)
        for start, piece in zip(starts, pieces, strict=True):
            buffer[start - offset : start - offset + len(piece)] = piece

    def close(self) -> None:
        """Cancel what is still being fetched; a second call does nothing."""
        self._object.calls.close()

    def __enter__(self) -> RemoteReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Object:
    """One object of a store, as bytes: lengths checked."""

    def __init__(self, url: str, patience: Patience) -> None:
        self.url = url
        self.calls = StoreCalls(url, patience)
        self.fs, self.path = self.calls.fs, self.calls.path
        self.is_http = url.startswith(("http://", "https://"))

    def file_info(self) -> FileInfo:
        def attempt(timeout_s: float) -> dict[str, Any]:
            self.fs.invalidate_cache(self.path)
            return dict(self.calls.run("info", timeout_s, self.path))

        info = self.calls.patiently("give the file's size", attempt)
        self.calls.has_answered = True
        if info.get("type") == "directory":
            raise UsageError(f"{self.url}: is a directory, expected a file")
        if info.get("size") is None:
            raise UsageError(f"{self.url}: the server does not tell the file's size; copy the file and name the copy")
        return FileInfo(self.url, int(info["size"]), f"{int(info['size'])}-{_version(info)}")

    def fetch(self, ranges: list[tuple[int, int]], size_bytes: int) -> list[bytes]:
        """The bytes of each half-open range, of the right length."""

        def attempt(timeout_s: float) -> list[bytes]:
            if self.fs.async_impl:
                pieces = self.calls.finish(lambda: self._gather(ranges), timeout_s)
            else:
                pieces = [self.fs.cat_file(self.path, start=start, end=stop) for start, stop in ranges]
            for (start, stop), piece in zip(ranges, pieces, strict=True):
                if len(piece) != stop - start:
                    raise ConnectionError(f"asked for {stop - start} bytes, got {len(piece)}")
            return list(pieces)

        return self.calls.patiently(f"give bytes {ranges[0][0]} to {ranges[-1][1]} of {size_bytes}", attempt)

    async def _gather(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        one = self._http_range if self.is_http else self._range
        return list(await asyncio.gather(*(one(start, stop) for start, stop in ranges)))

    async def _range(self, start: int, stop: int) -> bytes:
        piece = bytes(await self.fs._cat_file(self.path, start=start, end=stop))
        touch()
        return piece

    async def _http_range(self, start: int, stop: int) -> bytes:
        """One range, refused before its body if the server sends the whole file, as fsspec's own call would return."""
        session = await self.fs.set_session()
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        async with session.get(self.fs.encode_url(self.path), headers=headers) as answer:
            if answer.status in HTTP_ERRORS:
                raise HTTP_ERRORS[answer.status](answer.reason)
            answer.raise_for_status()
            if answer.status != 206 and answer.content_length != stop - start:
                raise StorageError(
                    f"{self.url}: the server does not serve byte ranges (status {answer.status}, expected 206); "
                    "copy the file to a disk or a store that does"
                )
            piece = bytes(await answer.read())
        touch()
        return piece


class StoreCalls:
    """Calls to an fsspec filesystem about one path: each with a deadline, retried, and cancelled on close."""

    def __init__(self, url: str, patience: Patience) -> None:
        self.url = url
        self.patience = patience
        self.fs, self.path = _filesystem(url)
        self.has_answered = False  # so that what is missing now was there
        self._closed = threading.Event()
        self._running: set[Any] = set()

    def run(self, method: str, timeout_s: float, *arguments: Any, **options: Any) -> Any:
        """The result of one of the filesystem's methods (`info`, `cat_file`), without a second attempt."""
        if not self.fs.async_impl:
            return getattr(self.fs, method)(*arguments, **options)
        return self.finish(lambda: getattr(self.fs, f"_{method}")(*arguments, **options), timeout_s)

    def finish(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """What a call comes to that an asynchronous filesystem awaits; TimeoutError after so many seconds."""

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

    def patiently(self, task: str, attempt: Callable[[float], T], patience: Patience | None = None) -> T:
        """What `attempt`, called with its seconds, returns once it succeeds; `task` goes on "the store did not …".

        Raises:
            UsageError: where no second attempt would help.
            StorageError: when the patience is used up, or once closed.
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
                    is_last = number >= patience.attempts and not self.has_answered  # else it may be restarting
                    if is_last or spent_s + pause_s >= patience.total_s:
                        message = f"{number} attempts in {spent_s:.0f} s, the last: {_describe(error)}"
                        raise StorageError(f"{self.url}: the store did not {task}: {message}") from error
                self._closed.wait(pause_s)

    def _raise_permanent(self, error: BaseException, task: str) -> None:
        """Raise what no second attempt would mend."""
        if self._closed.is_set():
            raise StorageError(f"{self.url}: closed before the store could {task}") from error
        if isinstance(error, FileNotFoundError) and self.has_answered:
            raise FileChanged(f"{self.url}: is no longer there; put it back or name another file") from error
        if isinstance(error, FileNotFoundError):
            raise UsageError(f"{self.url}: no such file") from error
        if isinstance(error, PermissionError):
            raise UsageError(f"{self.url}: permission denied ({_describe(error)}); check the credentials") from error
        if isinstance(error, PERMANENT):
            raise UsageError(f"{self.url}: expected a file: {_describe(error)}") from error
        if type(error).__name__ in PERMANENT_NAMES:
            raise UsageError(f"{self.url}: no credentials for this store: {_describe(error)}") from error
        if isinstance(error, DisttrainError) or not _is_transient(error):
            raise error

    def close(self) -> None:
        """Cancel what is running and refuse what comes; a second call does nothing."""
        self._closed.set()
        for future in list(self._running):
            future.cancel()


def _filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    protocol = url.split("://", 1)[0].split("::")[-1]
    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        remedy = f"pip install 'disttrain[{extra}]'" if extra else str(error)
        raise UsageError(f"{url}: {protocol}:// needs a package that is not installed: {remedy}") from error
    except ValueError as error:
        raise UsageError(f"{url}: cannot be opened: {error}") from error
    return fs, str(path)


def _version(info: dict[str, Any]) -> str:
    for fields in VERSION_FIELDS:
        for field in fields:
            if info.get(field):
                return str(info[field]).strip('"')
    return UNVERSIONED


def _is_transient(error: BaseException) -> bool:
    """Whether a store may answer when asked again: I/O errors, time-outs and the stores' own exceptions."""
    if isinstance(error, (OSError, TimeoutError, asyncio.TimeoutError)):
        return True
    return any(kind.__module__.split(".")[0] in STORE_PACKAGES for kind in type(error).__mro__)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
