"""Indexes where the rows of a file start: in one pass that threads and ranks share, done once and saved on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from disttrain.activity import activity
from disttrain.data.csv import row_scanner
from disttrain.data.csv.header import Header
from disttrain.errors import DisttrainError, FileChanged, redacted
from disttrain.storage.base import UNVERSIONED, FileInfo, Reader
from disttrain.storage.local import atomic_write, local_path, remove_parts
from disttrain.storage.open import check_unchanged

CHUNK_BYTES = 1 << 20
FORMAT = 2  # of the saved index; an index of another format is rebuilt

_LOOK_BEHIND = 64  # bytes read before a block, to see whether it begins within a line; keeps the block's words aligned
_TASK_CHUNKS = 16  # chunks that one thread takes at a time
SEEK_BYTES = 1 << 17  # what a search for a row reads at a time
_REMOTE_THREADS = 4  # at least this many for a remote file, since a store's latency leaves the processor idle
_ROWS, _FEEDS, _FIRST, _FEEDS_BEFORE_FIRST = range(4)

_log = logging.getLogger(__name__)

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Counts:
    """The result of a scan, one line per chunk: int64 `[num_chunks, 4]`, so that ranks can exchange it.

    The columns: rows that start in the chunk; its line feeds; the offset at which its first row starts, or -1; its line
    feeds before that row.
    """

    table: Int64s


@dataclass(frozen=True, eq=False)
class Index:
    """Where the rows of a file start: chunk i is the bytes `[rows_start + i * CHUNK_BYTES, + CHUNK_BYTES)`.

    For each chunk (int64 `[num_chunks]`): `offsets`, the offset of the first row that starts in it (or after it, if
    none does); `rows`, that row's number, from 0; `lines`, the number of that row's physical line, from 1.
    """

    fingerprint: str
    size_bytes: int
    rows_start: int
    delimiter: int
    num_rows: int
    offsets: Int64s
    rows: Int64s
    lines: Int64s

    def locate(self, reader: Reader, row: int) -> int:
        """Returns the offset of a row's first byte that is not blank; the file's size for `row == num_rows`."""
        assert 0 <= row <= self.num_rows, "the row is in the file, or its end"
        if row == self.num_rows:
            return self.size_bytes
        chunk = int(np.searchsorted(self.rows, row, side="right")) - 1
        skip, offset, at_start = row - int(self.rows[chunk]), int(self.offsets[chunk]), True
        if skip == 0:
            return offset
        while offset < self.size_bytes:
            data = _read(reader, offset, min(SEEK_BYTES, self.size_bytes - offset))
            position, passed, _, at_start = row_scanner.find_row()(data, 0, len(data), self.delimiter, at_start, skip)
            if position >= 0:
                return offset + int(position)
            skip -= passed
            offset += len(data)
        raise FileChanged(f"{reader.info.url}: row {row} is no longer where the index says; run again")

    def line_number(self, reader: Reader, offset: int) -> int:
        """Returns the physical line, from 1, of the byte at `offset`, which must lie in or after the first row."""
        chunk = max(int(np.searchsorted(self.offsets, offset, side="right")) - 1, 0)
        line, position = int(self.lines[chunk]), int(self.offsets[chunk])
        while position < offset:
            data = _read(reader, position, min(SEEK_BYTES, offset - position))
            line += data.tobytes().count(b"\n")
            position += len(data)
        return line


def num_chunks(info: FileInfo, header: Header) -> int:
    """Returns the number of a file's chunks, which the ranks divide among themselves before they scan."""
    return -(-(info.size_bytes - header.rows_start) // CHUNK_BYTES)


class Observer(Protocol):
    """Sees the bytes of some adjacent chunks, one block after another, while their rows are counted."""

    def see(self, block: npt.NDArray[np.uint8], offset: int, *, at_start: bool) -> None:
        """Sees the bytes from `offset` on; `at_start`: whether only blanks come before them on their line."""

    def finish(self, stop: int) -> None:
        """Hears that the chunks end at an offset, which may be within a line."""


def scan(
    reader: Reader,
    header: Header,
    start_chunk: int,
    stop_chunk: int,
    *,
    num_threads: int = 1,
    task_chunks: int = _TASK_CHUNKS,
    observe: Callable[[int], AbstractContextManager[Observer]] | None = None,
) -> Counts:
    """Counts the rows of the chunks `[start_chunk, stop_chunk)`, which may begin and end anywhere in a line.

    Threads take `task_chunks` of them at a time; `observe`, called with the first of these, gives who sees their bytes.
    """
    table = np.zeros((stop_chunk - start_chunk, 4), np.int64)
    if reader.block_bytes > CHUNK_BYTES:
        num_threads = max(num_threads, _REMOTE_THREADS)
    buffers: queue.SimpleQueue[npt.NDArray[np.uint8]] = queue.SimpleQueue()
    for _ in range(num_threads):
        buffers.put(np.empty(_LOOK_BEHIND + reader.block_bytes, np.uint8))

    def count(first: int) -> None:
        buffer = buffers.get()
        try:
            part = table[first - start_chunk : first - start_chunk + task_chunks]
            with observe(first) if observe is not None else nullcontext() as observer:
                _scan_chunks(reader, header, buffer, first, part, observer)
        finally:
            buffers.put(buffer)

    counting = activity("counting the rows of {}", reader.info.url, waits_for_threads=True)
    with counting, ThreadPoolExecutor(num_threads, "index") as pool:  # if one fails, map cancels those that wait
        for _ in pool.map(count, range(start_chunk, stop_chunk, task_chunks)):
            pass
    return Counts(table)


def join_counts(parts: Sequence[Counts]) -> Counts:
    """Joins the counts of adjacent parts, which are given in the file's order."""
    return Counts(np.concatenate([part.table for part in parts]))


def index_from_counts(reader: Reader, header: Header, counts: Counts) -> Index:
    """Returns the index of a file whose chunks have all been counted; FileChanged if the file changed meanwhile."""
    check_unchanged(reader.info)
    table, info = counts.table, reader.info
    assert len(table) == num_chunks(info, header), "every chunk was counted"
    rows = np.cumsum(table[:, _ROWS]) - table[:, _ROWS]
    first_line = 1 + _read(reader, 0, header.rows_start).tobytes().count(b"\n")
    num_feeds = int(table[:, _FEEDS].sum())
    lines = first_line + np.cumsum(table[:, _FEEDS]) - table[:, _FEEDS] + table[:, _FEEDS_BEFORE_FIRST]
    # A chunk in which no row starts gets the values of the next chunk in which one does: `filled` is its number.
    filled = np.where(table[:, _FIRST] >= 0, np.arange(len(table)), len(table))
    filled = np.minimum.accumulate(filled[::-1])[::-1]
    return Index(
        fingerprint=info.fingerprint,
        size_bytes=info.size_bytes,
        rows_start=header.rows_start,
        delimiter=ord(header.delimiter),
        num_rows=int(table[:, _ROWS].sum()),
        offsets=np.append(table[:, _FIRST], info.size_bytes)[filled],
        rows=rows,
        lines=np.append(lines, first_line + num_feeds)[filled],
    )


def build_index(reader: Reader, header: Header, *, num_threads: int = 1) -> Index:
    """Reads the whole file once and indexes it; FileChanged if it changes meanwhile."""
    counts = scan(reader, header, 0, num_chunks(reader.info, header), num_threads=num_threads)
    return index_from_counts(reader, header, counts)


def load_index(cache_dir: Path, info: FileInfo, header: Header) -> Index | None:
    """Returns the saved index of a file, or None if there is none, or it is torn or of an older version of the file."""
    try:
        with open(_kept_path(cache_dir, info, header), "rb") as stream, np.load(stream, allow_pickle=False) as kept:
            if (int(kept["format"]), str(kept["fingerprint"])) != (FORMAT, info.fingerprint):
                return None
            arrays = {name: np.asarray(kept[name], np.int64) for name in ("offsets", "rows", "lines")}
            num_rows, delimiter = int(kept["num_rows"]), ord(header.delimiter)
            index = Index(info.fingerprint, info.size_bytes, header.rows_start, delimiter, num_rows, **arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    shapes = {array.shape for array in arrays.values()}
    return index if shapes == {(num_chunks(info, header),)} else None


def save_index(cache_dir: Path, info: FileInfo, header: Header, index: Index) -> None:
    """Saves an index, whole or not at all; does nothing for a file whose store does not report a version."""
    if info.fingerprint.endswith(UNVERSIONED):
        return
    path = _kept_path(cache_dir, info, header)
    remove_parts(path.parent, r"[0-9a-f]{20}\..+", with_living_writers=True)
    with atomic_write(path) as stream:
        np.savez(
            stream,
            format=np.array(FORMAT),
            fingerprint=np.array(index.fingerprint),
            num_rows=np.array(index.num_rows),
            offsets=index.offsets,
            rows=index.rows,
            lines=index.lines,
        )


def index_file(reader: Reader, header: Header, cache_dir: Path, *, num_threads: int = 1) -> Index:
    """Returns the saved index if the file is unchanged, else a new one, which it saves where that is possible."""
    index = load_index(cache_dir, reader.info, header)
    if index is None:
        index = build_index(reader, header, num_threads=num_threads)
        keep_index(cache_dir, reader.info, header, index)
    return index


def keep_index(cache_dir: Path, info: FileInfo, header: Header, index: Index) -> None:
    """Saves an index where that is possible; otherwise logs a warning and goes on."""
    try:
        save_index(cache_dir, info, header, index)
    except (OSError, DisttrainError) as error:
        _log.warning("the index of %s could not be saved, and will be made again: %s", redacted(info.url), error)


def _scan_chunks(
    reader: Reader,
    header: Header,
    buffer: npt.NDArray[np.uint8],
    first_chunk: int,
    table: Int64s,
    observer: Observer | None,
) -> None:
    """Fills the lines of `table` with the counts of the chunks from `first_chunk` on."""
    chunks_per_block = reader.block_bytes // CHUNK_BYTES
    for done in range(0, len(table), chunks_per_block):
        lines = table[done : done + chunks_per_block]
        offset = header.rows_start + (first_chunk + done) * CHUNK_BYTES
        stop = min(offset + len(lines) * CHUNK_BYTES, reader.info.size_bytes)
        behind = min(_LOOK_BEHIND, offset - header.rows_start)
        used = buffer[_LOOK_BEHIND - behind : _LOOK_BEHIND + stop - offset]
        with activity("reading bytes {} to {} of {}", offset - behind, stop, reader.info.url):
            reader.read_into(offset - behind, used.data)
        at_start = _at_line_start(reader, header, used[:behind].tobytes(), offset - behind)
        if observer is not None:
            observer.see(used[behind:], offset, at_start=at_start)
        for line, start in zip(lines, range(offset, stop, CHUNK_BYTES), strict=True):
            begin = _LOOK_BEHIND + start - offset
            chunk, num_bytes = buffer[begin : begin + CHUNK_BYTES], min(CHUNK_BYTES, stop - start)
            at_start = _count_chunk(chunk, num_bytes, ord(header.delimiter), at_start, line)
            if line[_FIRST] >= 0:
                line[_FIRST] += start
    if observer is not None:
        observer.finish(min(header.rows_start + (first_chunk + len(table)) * CHUNK_BYTES, reader.info.size_bytes))


def _count_chunk(chunk: npt.NDArray[np.uint8], num_bytes: int, delimiter: int, at_start: bool, line: Int64s) -> bool:
    """Fills one line of the table, with offsets from the chunk's start; returns `at_start` for the next chunk."""
    position, _, feeds_before, _ = row_scanner.find_row()(chunk, 0, num_bytes, delimiter, at_start, 0)
    rows, feeds, at_start = row_scanner.count_rows()(chunk, chunk.view(np.uint64), num_bytes, delimiter, at_start)
    line[:] = rows, feeds, position, feeds_before
    return at_start


def _at_line_start(reader: Reader, header: Header, behind: bytes, offset: int) -> bool:
    """Returns whether only blanks stand between the last line feed (or the first row) and the end of `behind`.

    `behind` is the bytes that start at `offset`; earlier ones are read where needed.
    """
    while True:
        rest = behind.rstrip(header.blanks)
        if rest or offset == header.rows_start:
            return not rest or rest.endswith(b"\n")
        num_bytes = min(CHUNK_BYTES, offset - header.rows_start)
        offset -= num_bytes
        behind = _read(reader, offset, num_bytes).tobytes()


def load_beside(cache_dir: Path, info: FileInfo, header: Header, kind: str) -> bytes | None:
    """Returns what was saved for a file beside its index as `kind`; None if nothing, or of an older version of it."""
    try:
        fingerprint, _, content = _beside(cache_dir, info, header, kind).read_bytes().partition(b"\n")
    except OSError:
        return None
    return content if fingerprint == info.fingerprint.encode() else None


def keep_beside(cache_dir: Path, info: FileInfo, header: Header, kind: str, content: bytes) -> None:
    """Saves `content` for a file beside its index, where that is possible and its store reports a version."""
    if not info.fingerprint.endswith(UNVERSIONED):
        with suppress(OSError, DisttrainError), atomic_write(_beside(cache_dir, info, header, kind)) as stream:
            stream.write(info.fingerprint.encode() + b"\n" + content)


def _beside(cache_dir: Path, info: FileInfo, header: Header, kind: str) -> Path:
    return _kept_path(cache_dir, info, header, hashlib.sha256(kind.encode()).hexdigest()[:8])


def _kept_path(cache_dir: Path, info: FileInfo, header: Header, kind: str = "npz") -> Path:
    path = local_path(info.url)
    name = os.path.abspath(path) if path is not None else info.url
    key = hashlib.sha256(f"{name}\n{header.rows_start}\n{header.delimiter}".encode()).hexdigest()[:20]
    return cache_dir / "index" / f"{key}.{kind}"


def _read(reader: Reader, offset: int, num_bytes: int) -> npt.NDArray[np.uint8]:
    data = np.empty(num_bytes, np.uint8)
    reader.read_into(offset, data.data)
    return data
