"""Parsed rows cached on a local disk: later epochs and later runs read as float32 what one epoch has parsed.

In the directory of `--cache`, each combination of a file, its columns and how it is read has an entry, a directory of
its own:

    rows        float32 [num_rows, columns], in the file's order; sparse: rows that were never parsed take no room
    extents     which rows are there: a record for each range, appended after its rows have reached the disk
    about.json  what the rows depend on; an entry for which this differs from what is wanted is made anew

So a range is there whole or not at all, whatever stops a run. It does not matter which worker wrote it, in how many
shards, or in which order. `.lock` guards opening and evicting; every user of an entry holds a shared lock on its
`extents`, which keeps the entry from being evicted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import mmap
import os
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from disttrain.data.cache_eviction import ABOUT, RECORDS, ROWS, entry, is_unused, locked, make_room, remove_entry
from disttrain.data.ranges import Range, RangeSet
from disttrain.data.row_source import RowSource
from disttrain.errors import StorageError, UsageError
from disttrain.storage.base import UNVERSIONED
from disttrain.storage.local import absolute
from disttrain.threads import DaemonPool

FORMAT = 1
SYNC_BYTES = 64 << 20  # written rows are synced and recorded each time they reach this size
_RECORD = struct.Struct("<QQQ")  # start, stop, a checksum of both

_log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


class RowCache:
    """The cached rows of one source; a context manager, whose `close` may be called twice.

    `write` may be called by several threads. After a failed write, the cache is no longer `usable`, but the rows that
    it has can still be read until it is closed.
    """

    def __init__(self, path: Path, num_columns: int) -> None:
        """Opens an existing, checked entry; raises OSError, and ValueError if its records are torn."""
        self.path = path
        self.usable = True
        self._row_bytes = 4 * num_columns
        self._num_columns = num_columns
        self._lock = threading.Lock()
        self._there = RangeSet()
        self._unrecorded = RangeSet()
        self._records_read = 0
        self._syncs: list[Future[None]] = []
        self._closed = False
        self._users = 0  # running calls that use the files, which stay open until these end
        self._idle = threading.Condition(self._lock)
        with ExitStack() as opened:
            self._rows = os.open(path / ROWS, os.O_RDWR)
            opened.callback(os.close, self._rows)
            self._records = os.open(path / RECORDS, os.O_RDWR | os.O_APPEND)
            opened.callback(os.close, self._records)
            fcntl.flock(self._records, fcntl.LOCK_SH)
            self._read_records()
            opened.pop_all()
        self._syncer = DaemonPool(1, "cache")

    @property
    def num_rows(self) -> int:
        """Rows that the cache has."""
        return len(self._there)

    def begin_epoch(self) -> bool:
        """Adds the rows that other workers have written meanwhile; returns False if the cache can no longer be used.

        Until the next call, only this worker's own writes change which rows the cache has.
        """
        if not self._closed and self.usable:
            try:
                with self._lock:
                    self._read_records()
            except (OSError, ValueError) as error:
                self._fail(error)
        if not self.usable:
            self.close()
        return not self._closed

    def split(self, rows: Range) -> list[tuple[Range, bool]]:
        """Splits rows into ascending parts, each with whether the cache has it."""
        with self._lock:
            return self._there.split(rows)

    def read_into(self, first_row: int, out: Floats) -> None:
        """Fills `out`, float32 `[rows, columns]`, C-contiguous, with cached rows; StorageError if that fails."""
        view, offset = out.reshape(-1).view(np.uint8).data, first_row * self._row_bytes
        with self._files():
            while len(view):
                try:
                    count = os.preadv(self._rows, [view], offset)
                except OSError as error:
                    raise StorageError(f"{self.path}: cannot be read: {error.strerror}; remove it") from error
                if count == 0:
                    raise self._too_short()
                view, offset = view[count:], offset + count

    def view(self, rows: Range) -> Floats:
        """Returns cached rows as a read-only mapping of the file, float32 `[rows, columns]`, already read from disk.

        The mapping ends with the array, so that only the part of the file in use counts as this process's memory.
        """
        first = rows.start * self._row_bytes
        start = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        length = rows.stop * self._row_bytes - start
        with self._files():
            try:
                mapped = mmap.mmap(self._rows, length, flags=flags, prot=mmap.PROT_READ, offset=start)
            except ValueError as error:  # the file is too short
                raise self._too_short() from error
        values = np.frombuffer(mapped, np.float32, len(rows) * self._num_columns, first - start)
        return values.reshape(len(rows), self._num_columns)

    def write(self, first_row: int, rows: Floats) -> None:
        """Caches rows, float32 `[rows, columns]`, C-contiguous; if that fails, warns once and caches nothing more."""
        if not self.usable:
            return
        view, offset = rows.reshape(-1).view(np.uint8).data, first_row * self._row_bytes
        with self._files():
            try:
                while len(view):
                    count = os.pwrite(self._rows, view, offset)
                    view, offset = view[count:], offset + count
            except OSError as error:
                self._fail(error)
                return
            written = Range(first_row, first_row + len(rows))
            with self._lock:
                self._there.add(written)
                self._unrecorded.add(written)
                is_much = len(self._unrecorded) * self._row_bytes >= SYNC_BYTES
            if is_much:
                self.flush()

    def flush(self) -> None:
        """Starts to sync and record, in the background, the rows written so far."""
        with self._lock:
            written, self._unrecorded = self._unrecorded.ranges(), RangeSet()
            self._syncs = [sync for sync in self._syncs if not sync.done()]
            if written and self.usable:
                self._syncs.append(self._syncer.submit(lambda: self._record(written)))

    def close(self) -> None:
        """Waits until all rows are recorded, and closes the files; removes an entry that could not be written."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._idle.wait_for(lambda: not self._users)
        self.flush()
        for sync in self._syncs:
            sync.result()
        self._syncer.close()
        with suppress(OSError), locked(self.path.parent):
            if os.path.samestat(os.fstat(self._records), os.stat(self.path / RECORDS)):  # else it was replaced
                os.utime(self.path / ABOUT)
                if not self.usable and is_unused(self._records):
                    remove_entry(self.path)
        os.close(self._rows)
        os.close(self._records)

    def __enter__(self) -> RowCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _files(self) -> Iterator[None]:
        """Keeps the files open during the block; StorageError if they are already closed."""
        with self._lock:
            if self._closed:
                raise StorageError(f"{self.path}: the cache is closed")
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._idle.notify_all()

    def _record(self, written: list[Range]) -> None:
        try:
            _sync(self._rows)
            os.write(self._records, b"".join(_pack_record(rows) for rows in written))
        except OSError as error:
            self._fail(error)

    def _read_records(self) -> None:
        """Reads the records added since the last call; ValueError for one with a wrong checksum."""
        data = os.pread(self._records, os.fstat(self._records).st_size - self._records_read, self._records_read)
        whole = len(data) // _RECORD.size * _RECORD.size
        for rows in _unpack_records(data[:whole]):
            self._there.add(rows)
        self._records_read += whole

    def _fail(self, error: OSError | ValueError) -> None:
        with self._lock:
            is_first, self.usable = self.usable, False
        if is_first:
            reason = error.strerror if isinstance(error, OSError) else error
            _log.warning("the cache %s cannot be written, going on without it: %s", self.path, reason)

    def _too_short(self) -> StorageError:
        return StorageError(f"{self.path / ROWS}: is shorter than it was; remove {self.path} and run again")


def open_cache(
    directory: Path,
    source: RowSource,
    *,
    limit_bytes: int | None = None,
    planned: Range | None = None,
    warns: bool = True,
) -> RowCache | None:
    """Opens or makes the cache of a source's rows in `directory`; returns None if that cannot be done.

    The reason is then logged if `warns`. This machine's workers are going to write the rows `planned` (all, if it is
    None). The least recently used entries are removed until these rows, with the rest of the directory, fit into
    `limit_bytes` and onto the disk. Raises UsageError if the directory cannot be made or locked.
    """
    identity = _identity(source)
    path = directory / _key(identity)
    cache: RowCache | None = None
    reason: str | None = "its store does not tell when the file changes"
    if not source.fingerprint.endswith(UNVERSIONED):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with locked(directory):
                rows = _kept_rows(path, identity)
                if rows is None:
                    remove_entry(path)
                    rows = RangeSet()
                rows.add(Range(0, source.num_rows) if planned is None else planned)
                planned_bytes = len(rows) * source.num_columns * 4
                reason = make_room(directory, path, planned_bytes, limit_bytes)
                cache = None if reason else _open_entry(path, identity, planned_bytes)
        except OSError as error:
            reason = error.strerror or str(error)
            if not os.access(directory, os.W_OK):
                raise UsageError(f"--cache {directory}: cannot be written: {reason}; name another directory") from error
    if cache is None and warns:
        _log.warning("not using the cache in %s for %s: %s", directory, source.url, reason)
    return cache


def _open_entry(path: Path, identity: dict[str, Any], planned_bytes: int) -> RowCache:
    num_columns = len(identity["columns"])
    if path.exists():
        cache = RowCache(path, num_columns)
        if planned_bytes > entry(path).planned_bytes:
            _write_about(path, identity, planned_bytes)
        os.utime(path / ABOUT)
        return cache
    try:
        path.mkdir()
        (path / RECORDS).touch()
        with open(path / ROWS, "xb") as stream:
            stream.truncate(identity["num_rows"] * num_columns * 4)
        _write_about(path, identity, planned_bytes)
        return RowCache(path, num_columns)
    except BaseException:
        remove_entry(path)
        raise


def _write_about(path: Path, identity: dict[str, Any], planned_bytes: int) -> None:
    (path / ABOUT).write_text(json.dumps({"planned_bytes": planned_bytes, **identity}), encoding="utf-8")


def _identity(source: RowSource) -> dict[str, Any]:
    """Returns everything that the cached rows depend on."""
    files = [absolute(file.url) for file in source.files]
    return {
        "format": FORMAT,
        "byte_order": sys.byteorder,
        "file": files[0] if len(files) == 1 else files,
        "fingerprint": source.fingerprint,
        "columns": [*source.feature_names, *source.target_names, *(["weight"] if source.is_weighted else [])],
        "num_rows": source.num_rows,
        **source.how_read(),
    }


def _key(identity: dict[str, Any]) -> str:
    """Returns the entry's name, which stays the same if the file changes, so that new rows replace the old ones."""
    named = {name: identity[name] for name in set(identity) - {"format", "byte_order", "fingerprint", "num_rows"}}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:20]


def _kept_rows(path: Path, identity: dict[str, Any]) -> RangeSet | None:
    """Returns the rows that an entry has; None unless it exists, has this identity, and its files are whole."""
    kept = RangeSet()
    try:
        about = json.loads((path / ABOUT).read_bytes())
        size_bytes = os.stat(path / ROWS).st_size
        records = (path / RECORDS).read_bytes()
        for rows in _unpack_records(records):
            kept.add(rows)
    except (OSError, ValueError):
        return None
    wanted_bytes = identity["num_rows"] * len(identity["columns"]) * 4
    is_same = isinstance(about, dict) and {**about, **identity} == about
    return kept if is_same and size_bytes == wanted_bytes else None


def _pack_record(rows: Range) -> bytes:
    return _RECORD.pack(rows.start, rows.stop, zlib.crc32(f"{rows.start}-{rows.stop}".encode()))


def _unpack_records(data: bytes) -> Iterator[Range]:
    """Yields the ranges of some records; ValueError for one that is cut short or has a wrong checksum."""
    for start in range(0, len(data), _RECORD.size):
        record = data[start : start + _RECORD.size]
        rows = Range(*_RECORD.unpack(record)[:2]) if len(record) == _RECORD.size else Range(0, 0)
        if record != _pack_record(rows):
            raise ValueError("a record of the cache is torn")
        yield rows


def _sync(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)
