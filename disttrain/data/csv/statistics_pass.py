"""The pass that gathers statistics while it finds where rows start: the file's bytes are read once for both."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from disttrain.data.csv.first_lines import MAX_LINE_BYTES
from disttrain.data.csv.index import Counts, scan
from disttrain.data.csv.parser import ParseFault
from disttrain.data.csv.text import CsvText
from disttrain.data.csv.value_reader import ValueReader
from disttrain.data.place import Place
from disttrain.data.ranges import Range
from disttrain.data.sharding import shard_range
from disttrain.data.table.gathering import Gatherer, Sketches, Sums
from disttrain.errors import DataError

MAX_PARTS = 256  # of a file: each part's sums are kept until all are joined
MIN_PART_CHUNKS = 4
_READ_BYTES = 1 << 16  # at a time, of a line that ends beyond a part

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Wanted:
    """Which fields of the first file to look at: `take` int32 [fields] is a field's column, or -1; `as_text` [columns].

    `gaps` are the words that stand for nothing; `skips` lines that are no rows.
    """

    take: npt.NDArray[np.int32]
    as_text: Sequence[bool]
    gaps: Sequence[str]
    skips: bool = False


@dataclass(frozen=True, eq=False)
class Gathered:
    """What one worker gathered: the counts of its chunks if it counted them, the sums of its parts, and sketches."""

    counts: Counts | None
    parts: list[Sums]
    sketches: Sketches | None


def part_chunks(chunks: int) -> int:
    """Returns how many chunks of a file form a part, whose rows are always summed up together."""
    return max(-(-chunks // MAX_PARTS), MIN_PART_CHUNKS)


def parts_of_rank(chunks: int, rank: int, world_size: int) -> Range:
    """Returns the parts, of a file of so many chunks, that one worker gathers."""
    return shard_range(-(-chunks // part_chunks(chunks)), world_size, rank)


def gather(text: CsvText, wanted: Wanted, start_part: int, stop_part: int, *, num_threads: int = 1) -> Gathered:
    """Gathers the parts `[start_part, stop_part)` of a text.

    Raises:
        DataError: for a line that is no row, with its number.
    """
    chunks = text.num_chunks
    size = part_chunks(chunks)
    start, stop = min(start_part * size, chunks), min(stop_part * size, chunks)
    num_columns = len(wanted.as_text)
    parts = [Sums.nothing(num_columns) for _ in range(start, stop, size)]
    gatherers = Gatherers(text, wanted)

    @contextmanager
    def observe(first_chunk: int) -> Iterator[_Part]:
        file = text.file_of_chunk(first_chunk)
        with gatherers.of_file(file) as (gatherer, values):
            yield _Part(text, file, parts[(first_chunk - start) // size], gatherer, values)

    chunk_numbers = np.arange(start, stop)
    counts = scan(text, chunk_numbers, num_threads=num_threads, task_chunks=size, observe=observe)
    return Gathered(counts, parts, gatherers.sketches())


class Gatherers:
    """What gathers the values of a text, for any number of threads."""

    def __init__(self, text: CsvText, wanted: Wanted) -> None:
        self._text = text
        self._wanted = wanted
        self._all: list[Gatherer] = []
        self._free: queue.SimpleQueue[tuple[Gatherer, dict[bytes, ValueReader]]] = queue.SimpleQueue()

    @contextmanager
    def of_file(self, file: int) -> Iterator[tuple[Gatherer, ValueReader]]:
        """Lends one thread a gatherer, and what reads a file's rows."""
        wanted = self._wanted
        try:
            gatherer, readers = self._free.get_nowait()
        except queue.Empty:
            gatherer, readers = Gatherer(len(wanted.as_text)), {}
            self._all.append(gatherer)
        take = self._text.files[file].take(wanted.take)
        if take.tobytes() not in readers:
            delimiter = ord(self._text.header.delimiter)
            readers[take.tobytes()] = ValueReader(take, delimiter, wanted.as_text, wanted.gaps, skips=wanted.skips)
        yield gatherer, readers[take.tobytes()]
        self._free.put((gatherer, readers))

    def sketches(self) -> Sketches | None:
        """Returns what all threads gathered; None if no thread has gathered anything."""
        return Sketches.join([gatherer.sketches() for gatherer in self._all]) if self._all else None


class _Part:
    """Sums up the rows that start in some adjacent chunks of one file; an `Observer`."""

    def __init__(self, text: CsvText, file: int, sums: Sums, gatherer: Gatherer, values: ValueReader) -> None:
        self._text = text
        self._file = file
        self._sums = sums
        self._gatherer = gatherer
        self._values = values
        self._begun = False  # whether a row has started
        self._rest = b""  # the beginning of a line

    def see(self, block: Bytes, offset: int, *, at_start: bool) -> None:
        """Sums up the rows that end in the block."""
        start, stop = 0, _after_last_feed(block)
        if not self._begun:
            if not at_start:
                start = _after_first_feed(block)
                if not start:
                    return
            self._begun = True
        if self._rest:
            end = _after_first_feed(block)
            self._add(
                np.frombuffer(self._rest + block[: end or len(block)].tobytes(), np.uint8),
                offset - len(self._rest),
                bool(end),
            )
            if not end:
                return
            start = end
        self._rest = block[max(start, stop) :].tobytes()
        if start < stop:
            self._add_rows(block, start, stop, offset)

    def finish(self, stop: int) -> None:
        """Reads on to the end of the last row, which may be beyond the chunks."""
        size_bytes = int(self._text.stops[self._file])
        start = stop - len(self._rest)
        if not self._rest.strip(self._text.header.blanks):
            return  # a row that follows these blanks starts in the next part
        while self._rest and b"\n" not in self._rest[-_READ_BYTES:] and stop < size_bytes:
            more = bytearray(min(_READ_BYTES, size_bytes - stop))
            self._text.reader.read_into(stop, memoryview(more))
            self._keep(self._rest + bytes(more))
            stop += len(more)
        if self._rest:
            line = np.frombuffer(self._rest, np.uint8)
            self._add_rows(line, 0, _after_first_feed(line) or len(line), start)

    def _add(self, line: Bytes, offset: int, is_whole: bool) -> None:
        if is_whole:
            self._add_rows(line, 0, len(line), offset)
            self._rest = b""
        else:
            self._keep(line.tobytes())

    def _keep(self, rest: bytes) -> None:
        if len(rest) > MAX_LINE_BYTES:
            url = self._text.files[self._file].info.url
            raise DataError(f"{url}: a line of more than {MAX_LINE_BYTES} bytes; expected rows")
        self._rest = rest

    def _add_rows(self, buffer: Bytes, start: int, stop: int, base: int) -> None:
        while start < stop:
            try:
                num_rows, start = self._values.read(buffer, start, stop)
            except ParseFault as fault:
                raise DataError(f"{self._place(base + fault.offset)}: {fault.message}") from fault
            self._gatherer.add(self._sums, buffer, self._values.values, num_rows, base)

    def _place(self, offset: int) -> Place:
        """Returns where an offset is; reads the file up to it, as its rows are not counted yet."""
        own = self._text.files[self._file]
        line, start = own.header.first_line, int(self._text.starts[self._file])
        for position in range(start, offset, self._text.chunk_bytes):
            block = bytearray(min(self._text.chunk_bytes, offset - position))
            self._text.reader.read_into(position, memoryview(block))
            line += block.count(b"\n")
        return Place(own.info.url, line)


def _after_first_feed(block: Bytes) -> int:
    """Returns the position after the first line feed, 0 if there is none."""
    for start in range(0, len(block), _READ_BYTES):
        found = block[start : start + _READ_BYTES].tobytes().find(b"\n")
        if found >= 0:
            return start + found + 1
    return 0


def _after_last_feed(block: Bytes) -> int:
    """Returns the position after the last line feed, 0 if there is none."""
    for stop in range(len(block), 0, -_READ_BYTES):
        start = max(stop - _READ_BYTES, 0)
        found = block[start:stop].tobytes().rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0
