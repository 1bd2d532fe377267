"""Compressed files, read by ranges of the bytes that they hold.

gzip and bzip2 are entered in the middle, by rapidgzip: when a file is first opened, it is decompressed once, checked to
its end, and the places at which it can be entered are kept. What cannot be entered (zstd, xz) is decompressed once onto
a local disk.
"""

from __future__ import annotations

import io
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from disttrain.activity import activity, touch
from disttrain.errors import DataError, DisttrainError, FileChanged
from disttrain.storage.base import Reader
from disttrain.storage.kept_bytes import blocks_written, is_of, kept_path, open_kept, was_copied
from disttrain.storage.local import LOCAL_BLOCK_BYTES, atomic_write, local_path
from disttrain.storage.stream import ReaderStream
from disttrain.storage.unpacking import unpacked_blocks
from disttrain.threads import num_cores

ENTERED = {".gz": "gzip", ".bz2": "bzip2"}
UNPACKED = {".zst": "zstd", ".xz": "xz"}
_BLOCK_BYTES = 4 << 20
_MOST_HANDLES = 4  # for shards that are read at the same time, each where it is


def compression_of(url: str) -> str | None:
    """Returns what a file's name says that it is compressed with: "gzip", "bzip2", "zstd", "xz", or None."""
    path = urlsplit(url).path if url.startswith(("http://", "https://")) else url
    return (ENTERED | UNPACKED).get(os.path.splitext(path)[1].lower())


def open_compressed(raw: Reader, kept_in: Path) -> Reader:
    """Opens what a compressed file holds; closes it if that cannot be done. Its fingerprint is the file's own.

    Args:
        raw: the open file.
        kept_in: directory of a local disk for what is found out about it, or what it holds.

    Raises:
        DataError: if it is torn, or anything follows its end.
    """
    method = compression_of(raw.info.url)
    try:
        if not raw.info.size_bytes:
            raise DataError(f"{raw.info.url}: has no bytes, expected a file of {method}; write or copy it again")
        if method in ENTERED.values():
            return EnteredReader(raw, kept_in, _library(method))
        return open_kept(raw, kept_in, str(method), blocks_written(raw, unpacked_blocks(raw, str(method))))
    except BaseException:
        raw.close()
        raise


def _library(method: str | None) -> Any:
    import rapidgzip  # only where it is needed: it takes 50 ms

    return rapidgzip.IndexedBzip2File if method == "bzip2" else rapidgzip.RapidgzipFile


@dataclass
class _Handle:
    """An open file of rapidgzip, the position to which it was read, and the stream that it reads from."""

    file: Any
    stream: ReaderStream | None
    position: int = 0


class EnteredReader:
    """The bytes that a file compressed with gzip or bzip2 holds; a `Reader`."""

    def __init__(self, raw: Reader, kept_in: Path, library: Any) -> None:
        self._raw = raw
        self.was_copied = was_copied(raw)
        self._library = library
        self._idle: list[_Handle] = []  # the most recently used one last
        self._num_handles = 0
        self._closed = False
        self._changed = threading.Condition()
        self._entries: Path | dict[int, int] | None = None
        self.block_bytes = LOCAL_BLOCK_BYTES
        self.info = replace(raw.info, size_bytes=self._find_entries(kept_in))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fills the buffer; DataError if the file cannot be decompressed."""
        with self._handle(offset) as handle, _failures_named(self._raw.info.url, handle.stream):
            if handle.position != offset:
                handle.file.seek(offset)
            handle.position, filled = -1, 0
            while filled < len(buffer):
                count = handle.file.readinto(buffer[filled:])
                if not count:
                    _raise_failure(handle.stream)
                    raise FileChanged(f"{self.info.url}: ended at byte {offset + filled} of {self.info.size_bytes}")
                filled += count
            handle.position = offset + filled

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
        for handle in idle:
            handle.file.close()
        self._raw.close()

    @contextmanager
    def _handle(self, offset: int) -> Iterator[_Handle]:
        """Lends the handle that is where it will be read, else a new one, else the one that was used longest ago."""
        with self._changed:
            while True:
                here = next((handle for handle in self._idle if handle.position == offset), None)
                if here is None and self._num_handles < _MOST_HANDLES:
                    self._num_handles += 1
                    break
                if here is None and self._idle:
                    here = self._idle[0]
                if here is not None:
                    self._idle.remove(here)
                    break
                self._changed.wait()
        handle = here
        try:
            handle = handle or self._opened()
            yield handle
        finally:
            with self._changed:
                if handle is None:
                    self._num_handles -= 1
                elif self._closed:
                    handle.file.close()
                else:
                    self._idle.append(handle)
                self._changed.notify()

    def _opened(self) -> _Handle:
        path = local_path(self._raw.info.url)
        stream = ReaderStream(self._raw) if path is None else None
        with _failures_named(self._raw.info.url, stream):
            file = self._library(stream or str(path), parallelization=num_cores())
            if isinstance(self._entries, Path):
                file.import_index(str(self._entries))
            elif self._entries is not None:
                file.set_block_offsets(self._entries)
        return _Handle(file, stream)

    def _find_entries(self, kept_in: Path) -> int:
        """Loads or finds where the file can be entered; returns how many bytes it holds."""
        path = kept_path(kept_in / "entries", self._raw.info)
        about = path.with_suffix(".json")
        with suppress(OSError, ValueError, KeyError):
            kept = json.loads(about.read_bytes())
            offsets = {int(bit): byte for bit, byte in kept["offsets"].items()}
            if is_of(kept, self._raw.info) and (offsets or path.stat().st_size == kept["entries_bytes"]):
                self._entries = offsets or path
                return int(kept["size_bytes"])
        handle = self._opened()
        try:
            size_bytes = self._read_to_the_end(handle)
            entries = io.BytesIO()  # where writing cannot fail: rapidgzip would end the process
            offsets = {}
            if hasattr(handle.file, "export_index"):
                handle.file.export_index(entries)
            else:
                self._entries = offsets = handle.file.block_offsets()
            told = {"fingerprint": self._raw.info.fingerprint, "size_bytes": size_bytes, "offsets": offsets}
            with suppress(OSError, DisttrainError):
                if not offsets:
                    with atomic_write(path) as stream:
                        stream.write(entries.getbuffer())
                    self._entries = path
                with atomic_write(about) as stream:
                    stream.write(json.dumps({**told, "entries_bytes": len(entries.getvalue())}).encode())
            return size_bytes
        finally:
            handle.file.close()

    def _read_to_the_end(self, handle: _Handle) -> int:
        """Decompresses everything, whose checksums are compared; returns how many bytes there are."""
        url, buffer, size_bytes = self._raw.info.url, memoryview(bytearray(_BLOCK_BYTES)), 0
        with activity("decompressing {}", url), _failures_named(url, handle.stream):
            while count := handle.file.readinto(buffer):
                size_bytes += count
                touch()
            _raise_failure(handle.stream)
            end = -(-max(handle.file.block_offsets(), default=0) // 8)
        if size_bytes and end != self._raw.info.size_bytes:
            raise DataError(
                f"{url}: is torn, or something follows its end: its last whole part ends at byte {end:,} of "
                f"{self._raw.info.size_bytes:,}; write or copy it again"
            )
        return size_bytes

    def __enter__(self) -> EnteredReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _raise_failure(stream: ReaderStream | None) -> None:
    """Raises what reading from a store failed with, of which rapidgzip says nothing."""
    if stream is not None and stream.failure is not None:
        raise stream.failure


@contextmanager
def _failures_named(url: str, stream: ReaderStream | None) -> Iterator[None]:
    """Makes what rapidgzip raises an error that names the file, or what reading the file failed with."""
    try:
        yield
    except (RuntimeError, ValueError, EOFError) as error:
        _raise_failure(stream)
        told = re.match(r"(?:\[[^]]*\])*\s*([^.!\n]*)", str(error))
        reason = told[1] if told is not None and told[1] else type(error).__name__
        raise DataError(f"{url}: cannot be decompressed: {reason}; write or copy it again") from error
