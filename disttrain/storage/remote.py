"""Objects of any store that fsspec opens, read by ranges: lengths checked, retries and waiting bounded."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO

from disttrain.activity import touch
from disttrain.errors import UsageError
from disttrain.storage.answers import Asked
from disttrain.storage.base import UNVERSIONED, FileInfo, Patience, Span
from disttrain.storage.protocols import http_serves_ranges, http_whole, protocol_of
from disttrain.storage.store_calls import StoreCalls
from disttrain.storage.traffic import TRAFFIC

REMOTE_BLOCK_BYTES = 8 << 20  # large enough to hide a store's latency of some 50 ms
PIECE_BYTES = 2 << 20  # a remote block is fetched in pieces of this size, all at the same time

# Fields that identify an object's version, the most reliable first; stores name them differently.
VERSION_FIELDS = (
    ("ETag", "etag", "md5Hash", "Content-MD5", "content_md5", "Digest", "uid"),
    ("LastModified", "last_modified", "Last-Modified", "mtime", "modified", "updated", "created"),
)


class RemoteReader:
    """An object of a store that fsspec knows, read by ranges; the pieces of a large range are read at the same time."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._object = _Object(url, patience)
        self.info = self._object.file_info()
        self.block_bytes = REMOTE_BLOCK_BYTES

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fills the buffer; StorageError once retries are used up, because of errors or answers of the wrong length."""
        if not buffer:
            return
        stop = offset + len(buffer)
        starts = range(offset, stop, PIECE_BYTES)
        pieces = self._object.fetch([(start, min(start + PIECE_BYTES, stop)) for start in starts], self.info.size_bytes)
        for start, piece in zip(starts, pieces, strict=True):
            buffer[start - offset : start - offset + len(piece)] = piece

    def serves_ranges(self) -> bool:
        """Asks the store whether it gives parts of this object; only web servers may not. Raises StorageError."""
        return self._object.serves_ranges()

    def copy_to(self, stream: BinaryIO) -> None:
        """Writes all bytes to a stream that can seek; StorageError once retries are used up."""
        self._object.copy_to(stream, self.info.size_bytes)

    def close(self) -> None:
        """Cancels what is still being fetched; a second call does nothing."""
        self._object.calls.close()

    def __enter__(self) -> RemoteReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Object:
    """One object of a store, read as bytes whose lengths are checked."""

    def __init__(self, url: str, patience: Patience) -> None:
        self.url = url
        self.calls = StoreCalls(url, patience)
        self.fs, self.path = self.calls.fs, self.calls.path
        self._protocol = protocol_of(url)
        self._info: dict[str, Any] = {}

    def file_info(self) -> FileInfo:
        def attempt(timeout_s: float) -> dict[str, Any]:
            if self.fs.async_impl:
                return self.calls.finish(lambda: self._protocol.info(self.fs, self.path), timeout_s)
            self.fs.invalidate_cache(self.path)
            return dict(self.fs.info(self.path))

        info = self._info = self.calls.with_retries("give the file's size", attempt)
        self.calls.has_answered = True
        if info.get("type") == "directory":
            raise UsageError(f"{self.url}: is a directory, expected a file")
        if info.get("size") is None:
            raise UsageError(f"{self.url}: the server does not tell the file's size; copy the file and name the copy")
        return FileInfo(self.url, int(info["size"]), f"{int(info['size'])}-{_version(info)}")

    def fetch(self, ranges: list[Span], size_bytes: int) -> list[bytes]:
        """Returns the bytes of each half-open range, checked to be of the right length."""

        def attempt(timeout_s: float) -> list[bytes]:
            if self.fs.async_impl:
                pieces = self.calls.finish(lambda: self._gather(ranges), timeout_s)
            else:
                pieces = [self.fs.cat_file(self.path, start=start, end=stop) for start, stop in ranges]
            for (start, stop), piece in zip(ranges, pieces, strict=True):
                if len(piece) != stop - start:
                    raise ConnectionError(f"asked for {stop - start} bytes, got {len(piece)}")
            return list(pieces)

        return self.calls.with_retries(f"give bytes {ranges[0][0]} to {ranges[-1][1]} of {size_bytes}", attempt)

    def serves_ranges(self) -> bool:
        if not self.url.startswith(("http://", "https://")) or self._info.get("Accept-Ranges") == "bytes":
            return True
        ask = partial(self.calls.finish, lambda: http_serves_ranges(self.fs, self.path))
        return self.calls.with_retries("say whether it gives parts of the file", ask)

    def copy_to(self, stream: BinaryIO, size_bytes: int) -> None:
        fetch = partial(self.calls.finish, lambda: http_whole(self.fs, self.path, stream, self._info))
        self.calls.with_retries(f"give all {size_bytes:,} bytes", fetch, self.calls.patience.for_bytes(size_bytes))
        TRAFFIC.add(size_bytes)

    async def _gather(self, ranges: list[Span]) -> list[bytes]:
        tasks = [asyncio.ensure_future(self._range(span)) for span in ranges]
        try:
            return list(await asyncio.gather(*tasks))
        finally:  # if one fails, the others are not wanted any more
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _range(self, span: Span) -> bytes:
        piece = await self._protocol.read(self.fs, self.path, Asked(self.url, self._info, span))
        TRAFFIC.add(len(piece))
        touch()
        return piece


def _version(info: dict[str, Any]) -> str:
    for fields in VERSION_FIELDS:
        for field in fields:
            if info.get(field):
                return str(info[field]).strip('"')
    return UNVERSIONED


def put_object(url: str, write: Callable[[BinaryIO], None], patience: Patience) -> None:
    """Stores what `write` writes as one object of any size, whole or not at all, without holding it in memory.

    A failed attempt is made again from the beginning.
    """
    calls = StoreCalls(url, patience)

    def attempt(timeout_s: float) -> None:
        try:
            opened = calls.fs.open(calls.path, "wb")
        except NotImplementedError as error:
            raise UsageError(f"{url}: cannot be written to; name a file or a place in a store") from error
        with opened as stream:
            try:
                write(stream)
            except BaseException:
                stream.discard()
                stream.closed = True  # else leaving the block would complete what was sent
                raise

    try:
        calls.with_retries("take the file", attempt)
    finally:
        calls.close()


def check_no_web_server(url: str) -> None:
    """Raises UsageError for a place that cannot be written to."""
    if url.startswith(("http://", "https://")):
        raise UsageError(f"{url}: web servers cannot be written to; name a directory or a bucket")


class RemoteDirectory:
    """The objects directly below a URL; every call is retried within the limits of `patience`."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._url = url.rstrip("/")
        self._calls = StoreCalls(self._url, patience)

    def names(self) -> list[str]:
        """Returns the names of its objects, in no order; an empty list if the directory does not exist."""

        def attempt(timeout_s: float) -> list[str]:
            self._calls.fs.invalidate_cache(self._calls.path)
            try:
                paths = self._calls.run("ls", timeout_s, self._calls.path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return [str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths]

        return self._calls.with_retries("list the directory", attempt)

    def put(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Stores what `write` writes as one object, whole or not at all; replaces an object of the same name."""
        check_no_web_server(self._url)
        stream = io.BytesIO()
        write(stream)
        content = stream.getvalue()

        def attempt(timeout_s: float) -> None:
            try:
                self._calls.run("pipe_file", timeout_s, f"{self._calls.path}/{name}", content)
            except FileNotFoundError as error:
                raise UsageError(f"{self._url}: there is no such bucket or directory; make it first") from error
            except NotImplementedError as error:
                raise UsageError(f"{self._url}: cannot be written to; name a directory or a bucket") from error

        self._calls.with_retries(
            f"take {name} ({len(content):,} bytes)", attempt, self._calls.patience.for_bytes(len(content))
        )

    def remove(self, name: str) -> None:
        """Removes an object; does nothing if it does not exist."""

        def attempt(timeout_s: float) -> None:
            try:
                self._calls.run("rm_file", timeout_s, f"{self._calls.path}/{name}")
            except FileNotFoundError:
                return

        self._calls.with_retries(f"remove {name}", attempt)

    def close(self) -> None:
        """Cancels running calls; a second `close` does nothing."""
        self._calls.close()
