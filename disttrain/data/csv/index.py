"""Indexes where the rows of a text start: in one pass that threads and ranks share."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from disttrain.activity import activity
from disttrain.data.csv import dialect_scanner, row_scanner
from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.text import CsvText
from disttrain.data.place import Place
from disttrain.errors import DataError, FileChanged
from disttrain.storage.base import Reader

_LOOK_BEHIND = 64  # bytes read before a block, to see whether it begins within a line; keeps the block's words aligned
_TASK_CHUNKS = 16  # chunks that one thread takes at a time
SEEK_BYTES = 1 << 17  # what a search for a row reads at a time
_REMOTE_THREADS = 4  # at least this many for a remote file, since a store's latency leaves the processor idle
_ROWS, _FEEDS, FIRST, _FEEDS_BEFORE_FIRST = range(4)  # the columns of `Counts`

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Counts:
    """The result of a scan, one line per chunk: int64 `[num_chunks, 4]`, so that ranks can exchange it.

    The columns: rows that start in the chunk; its line feeds; the offset at which its first row starts, or -1; its line
    feeds before that row. Of a dialect that is not plain, int64 `[num_chunks, states, 5]`: such a line for each state
    in which the chunk may begin, and the state after it (see dialect_scanner.py).
    """

    table: Int64s


@dataclass(frozen=True, eq=False)
class Index:
    """Where the rows of a text start.

    For each chunk (int64 `[num_chunks]`): `offsets`, the offset of the first row that starts in it (or after it, if
    none does); `rows`, that row's number, from 0; `lines`, the number of that row's physical line in its file, from 1.
    """

    size_bytes: int
    dialect: Dialect
    num_rows: int
    offsets: Int64s
    rows: Int64s
    lines: Int64s

    def check_has_rows(self, url: str) -> None:
        """Raises DataError if there is no row."""
        if not self.num_rows:
            raise DataError(f"{url}: has a header line but no rows")

    def locate(self, reader: Reader, row: int) -> int:
        """Returns the offset of a row's first byte that is not blank; the file's size for `row == num_rows`."""
        assert 0 <= row <= self.num_rows, "the row is in the file, or its end"
        if row == self.num_rows:
            return self.size_bytes
        chunk = int(np.searchsorted(self.rows, row, side="right")) - 1
        skip, offset, at_start = row - int(self.rows[chunk]), int(self.offsets[chunk]), True
        if skip == 0:
            return offset
        delimiter, state = ord(self.dialect.delimiter), dialect_scanner.LINE
        table = dialect_scanner.transitions(self.dialect)
        while offset < self.size_bytes:
            data = _read(reader, offset, min(SEEK_BYTES, self.size_bytes - offset))
            if self.dialect.has_plain_lines:
                position, passed, _, at_start = row_scanner.find_row()(data, 0, len(data), delimiter, at_start, skip)
            else:
                position, passed, state = dialect_scanner.find()(data, len(data), state, skip, table)
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

    def place(self, text: CsvText, offset: int) -> Place:
        """Returns the file and the line of the byte at `offset`, which must lie in or after the first row."""
        return Place(text.url_at(offset), self.line_number(text.reader, offset))


class Observer(Protocol):
    """Sees the bytes of some adjacent chunks, one block after another, while their rows are counted."""

    def see(self, block: npt.NDArray[np.uint8], offset: int, *, at_start: bool) -> None:
        """Sees the bytes from `offset` on; `at_start`: whether only blanks come before them on their line."""

    def finish(self, stop: int) -> None:
        """Hears that the chunks end at an offset, which may be within a line."""


def scan(
    text: CsvText,
    chunks: Int64s,
    *,
    num_threads: int = 1,
    task_chunks: int = _TASK_CHUNKS,
    observe: Callable[[int], AbstractContextManager[Observer]] | None = None,
) -> Counts:
    """Counts the rows of some chunks, whose ascending numbers are int64 `[num_chunks]`.

    Threads take `task_chunks` of them at a time; `observe`, called with the first of adjacent ones, gives who sees
    their bytes.
    """
    is_plain = text.header.dialect.has_plain_lines
    table = np.zeros((len(chunks), 4) if is_plain else (len(chunks), dialect_scanner.NUM_STATES, 5), np.int64)
    if text.reader.block_bytes > text.chunk_bytes:
        num_threads = max(num_threads, _REMOTE_THREADS)
    buffers: queue.SimpleQueue[npt.NDArray[np.uint8]] = queue.SimpleQueue()
    for _ in range(num_threads):
        buffers.put(np.empty(_LOOK_BEHIND + text.reader.block_bytes, np.uint8))

    def count(first: int) -> None:
        buffer = buffers.get()
        try:
            for start, stop in _runs(text, chunks, first, min(first + task_chunks, len(chunks))):
                with observe(int(chunks[start])) if observe is not None else nullcontext() as observer:
                    _scan_chunks(text, buffer, int(chunks[start]), table[start:stop], observer)
        finally:
            buffers.put(buffer)

    counting = activity("counting the rows of {}", text.info.url, waits_for_threads=True)
    with counting, ThreadPoolExecutor(num_threads, "index") as pool:  # if one fails, map cancels those that wait
        for _ in pool.map(count, range(0, len(chunks), task_chunks)):
            pass
    return Counts(table)


def _runs(text: CsvText, chunks: Int64s, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yields the parts [first, end) of `chunks[start:stop]` that follow each other in one file."""
    files = np.searchsorted(text.first_chunks, chunks[start:stop], side="right")
    breaks = np.flatnonzero((np.diff(chunks[start:stop]) != 1) | (np.diff(files) != 0)) + 1 + start
    yield from zip([start, *breaks.tolist()], [*breaks.tolist(), stop], strict=True)


def join_counts(parts: Sequence[Counts]) -> Counts:
    """Joins the counts of adjacent parts, which are given in the text's order."""
    return Counts(np.concatenate([part.table for part in parts]))


def followed(text: CsvText, chunks: Int64s, counts: Counts) -> Counts:
    """Returns what was counted of these chunks of whole files, each in the state in which it does begin."""
    if text.header.dialect.has_plain_lines:
        return counts
    files = np.searchsorted(text.first_chunks, chunks, side="right")
    cuts = np.flatnonzero(np.diff(files)) + 1
    return Counts(np.concatenate([dialect_scanner.follow_chunks(own) for own in np.split(counts.table, cuts)]))


def index_from_counts(text: CsvText, counts: Counts) -> Index:
    """Returns the index of a text whose chunks have all been counted."""
    table = counts.table
    assert len(table) == text.num_chunks, "every chunk was counted"
    rows = np.cumsum(table[:, _ROWS]) - table[:, _ROWS]
    feeds = np.concatenate([np.zeros(1, np.int64), np.cumsum(table[:, _FEEDS])])
    counted = np.diff(text.first_chunks)  # of each file
    first_lines = np.array([file.header.first_line for file in text.files], np.int64)
    in_file = feeds[:-1] - np.repeat(feeds[text.first_chunks[:-1]], counted)
    lines = np.repeat(first_lines, counted) + in_file + table[:, _FEEDS_BEFORE_FIRST]
    # A chunk in which no row starts gets the values of the next chunk in which one does: `filled` is its number.
    filled = np.where(table[:, FIRST] >= 0, np.arange(len(table)), len(table))
    filled = np.minimum.accumulate(filled[::-1])[::-1]
    last_line = first_lines[-1] + feeds[-1] - feeds[text.first_chunks[-2]]
    return Index(
        size_bytes=text.info.size_bytes,
        dialect=text.header.dialect,
        num_rows=int(table[:, _ROWS].sum()),
        offsets=np.append(table[:, FIRST], text.info.size_bytes)[filled],
        rows=rows,
        lines=np.append(lines, last_line)[filled],
    )


def build_index(text: CsvText, *, num_threads: int = 1) -> Index:
    """Reads the whole text once and indexes it; FileChanged if a file changes meanwhile."""
    chunks = np.arange(text.num_chunks)
    counts = scan(text, chunks, num_threads=num_threads)
    text.check_unchanged()
    return index_from_counts(text, followed(text, chunks, counts))


def _scan_chunks(
    text: CsvText, buffer: npt.NDArray[np.uint8], first_chunk: int, table: Int64s, observer: Observer | None
) -> None:
    """Fills the lines of `table` with the counts of the chunks of one file from `first_chunk` on."""
    transitions = dialect_scanner.transitions(text.header.dialect)
    reader, chunks_per_block = text.reader, text.reader.block_bytes // text.chunk_bytes
    file = text.file_of_chunk(first_chunk)
    start_of_file, stop_of_file = int(text.starts[file]), int(text.stops[file])
    first = int(text.chunk_starts[first_chunk])
    for done in range(0, len(table), chunks_per_block):
        lines = table[done : done + chunks_per_block]
        offset = first + done * text.chunk_bytes
        stop = min(offset + len(lines) * text.chunk_bytes, stop_of_file)
        behind = min(_LOOK_BEHIND, offset - start_of_file)
        used = buffer[_LOOK_BEHIND - behind : _LOOK_BEHIND + stop - offset]
        with activity("reading bytes {} to {} of {}", offset - behind, stop, reader.info.url):
            reader.read_into(offset - behind, used.data)
        is_plain = text.header.dialect.has_plain_lines
        at_start = is_plain and _at_line_start(text, start_of_file, used[:behind].tobytes(), offset - behind)
        if observer is not None:
            observer.see(used[behind:], offset, at_start=at_start)
        for line, start in zip(lines, range(offset, stop, text.chunk_bytes), strict=True):
            begin = _LOOK_BEHIND + start - offset
            chunk, num_bytes = buffer[begin : begin + text.chunk_bytes], min(text.chunk_bytes, stop - start)
            if is_plain:
                at_start = _count_chunk(chunk, num_bytes, ord(text.header.delimiter), at_start, line)
            else:
                dialect_scanner.count()(chunk, chunk.view(np.uint64), num_bytes, transitions, line)
            firsts = line[..., FIRST]
            firsts[...] = np.where(firsts >= 0, firsts + start, firsts)
    if observer is not None:
        observer.finish(min(first + len(table) * text.chunk_bytes, stop_of_file))


def _count_chunk(chunk: npt.NDArray[np.uint8], num_bytes: int, delimiter: int, at_start: bool, line: Int64s) -> bool:
    """Fills one line of the table, with offsets from the chunk's start; returns `at_start` for the next chunk."""
    position, _, feeds_before, _ = row_scanner.find_row()(chunk, 0, num_bytes, delimiter, at_start, 0)
    rows, feeds, at_start = row_scanner.count_rows()(chunk, chunk.view(np.uint64), num_bytes, delimiter, at_start)
    line[:] = rows, feeds, position, feeds_before
    return at_start


def _at_line_start(text: CsvText, start_of_file: int, behind: bytes, offset: int) -> bool:
    """Returns whether only blanks stand between the last line feed (or the file's first row) and the end of `behind`.

    `behind` is the bytes that start at `offset`; earlier ones are read where needed.
    """
    while True:
        rest = behind.rstrip(text.header.blanks)
        if rest or offset == start_of_file:
            return not rest or rest.endswith(b"\n")
        num_bytes = min(text.chunk_bytes, offset - start_of_file)
        offset -= num_bytes
        behind = _read(text.reader, offset, num_bytes).tobytes()


def _read(reader: Reader, offset: int, num_bytes: int) -> npt.NDArray[np.uint8]:
    data = np.empty(num_bytes, np.uint8)
    reader.read_into(offset, data.data)
    return data
