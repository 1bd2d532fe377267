"""Streams rows in their order, in parts that several threads parse ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

from disttrain.activity import activity, touch
from disttrain.data.ranges import Range
from disttrain.data.row_source import Floats, RowSource
from disttrain.errors import DataError
from disttrain.threads import DaemonPool

PART_BYTES = 16 << 20  # of parsed rows
_OF_TRAINING = ("--missing", "--features", "--kinds")  # of these a trained model leaves no choice
LEAST_PART_ROWS, MOST_PART_ROWS = 1 << 10, 1 << 18


def part_rows(num_columns: int) -> int:
    """Returns how many rows a part has, but for the last one: the same on any number of workers."""
    return min(max(PART_BYTES // (4 * num_columns), LEAST_PART_ROWS), MOST_PART_ROWS)


def parts_of(num_rows: int, rows: int) -> list[Range]:
    """Returns the parts of a dataset, of so many rows each."""
    return [Range(start, min(start + rows, num_rows)) for start in range(0, num_rows, rows)]


def parsed_parts(source: RowSource, parts: Sequence[Range], num_threads: int) -> Iterator[tuple[Range, Floats]]:
    """Yields each part with its rows, float32 [rows, columns].

    Raises:
        DataError: for a row that cannot be read, with its line.
        FileChanged: if a file is no longer as it was when it was opened.
    """
    pool = DaemonPool(num_threads, "parse-part")
    left, jobs = deque(parts), deque()  # type: ignore[var-annotated]
    try:
        while left or jobs:
            while left and len(jobs) <= num_threads:
                part = left.popleft()
                jobs.append((part, pool.submit(partial(_parsed, source, part))))
            part, job = jobs.popleft()
            with activity("waiting for rows {} to {}", part.start, part.stop, waits_for_threads=True):
                rows = job.result()
            yield part, rows
            touch()
    finally:
        pool.close()
    source.check_unchanged()


def _parsed(source: RowSource, part: Range) -> Floats:
    readers = DaemonPool(1, "read-part")
    try:
        rows = source.rows([part], readers, block_bytes=source.block_bytes)
        found = rows.take(len(part))
        rows.finish()
        return found
    except DataError as error:
        what, _, remedy = str(error).partition("; ")
        if any(option in remedy for option in _OF_TRAINING):
            raise DataError(f"{what}; correct the row, or add --on-bad-row skip") from error
        raise
    finally:
        readers.close()
