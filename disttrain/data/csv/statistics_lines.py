"""Gathers statistics of a text whose rows are counted: the second pass, for dialects in which one pass cannot do both.

Where a comment or a quoted field may begin before a part, the part's first row is known only after all are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from disttrain.activity import activity
from disttrain.data.csv.index import Index
from disttrain.data.csv.normalizer import normalizer_of
from disttrain.data.csv.parser import ParseFault
from disttrain.data.csv.readahead import Block, line_blocks
from disttrain.data.csv.statistics_pass import Gathered, Gatherers, Wanted, part_chunks
from disttrain.data.csv.text import CsvText
from disttrain.data.csv.value_reader import ValueReader
from disttrain.data.table.gathering import Gatherer, Sums
from disttrain.errors import DataError
from disttrain.threads import DaemonPool


def gather_lines(
    text: CsvText, index: Index, wanted: Wanted, start_part: int, stop_part: int, *, num_threads: int = 1
) -> Gathered:
    """Gathers the parts `[start_part, stop_part)` of an indexed text.

    Raises:
        DataError: for a line that is no row, with its number.
    """
    size = part_chunks(text.num_chunks)
    bounds = np.append(index.offsets, text.info.size_bytes)
    gatherers = Gatherers(text, wanted)

    def gather_part(part: int) -> Sums:
        sums = Sums.nothing(len(wanted.as_text))
        start, stop = (int(bounds[min(chunk, text.num_chunks)]) for chunk in (part * size, (part + 1) * size))
        pool = DaemonPool(1, "read-part")
        try:
            blocks = line_blocks(
                text.reader, _by_file(text, start, stop), pool, block_bytes=text.reader.block_bytes,
                normalizer=normalizer_of(text.header.dialect),
            )  # fmt: skip
            for block in blocks:
                with gatherers.of_file(text.file_at(block.base + block.start)) as (gatherer, values):
                    _add_block(text, index, sums, gatherer, values, block)
        finally:
            pool.close()
        return sums

    gathering = activity("gathering statistics of {}", text.info.url, waits_for_threads=True)
    with gathering, ThreadPoolExecutor(num_threads, "statistics") as threads:
        parts = list(threads.map(gather_part, range(start_part, stop_part)))
    return Gathered(None, parts, gatherers.sketches())


def _by_file(text: CsvText, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yields the span, cut where files begin if their columns stand in other orders, or quotes may be open."""
    apart = text.has_orders or text.header.dialect.quoted_newlines
    cuts = text.starts[(text.starts > start) & (text.starts < stop)].tolist() if apart else []
    bounds = [start, *cuts, stop]
    yield from ((first, end) for first, end in pairwise(bounds) if first < end)


def _add_block(text: CsvText, index: Index, sums: Sums, gatherer: Gatherer, values: ValueReader, block: Block) -> None:
    position = block.start
    while position < block.stop:
        try:
            num_rows, position = values.read(block.buffer, position, block.stop)
        except ParseFault as fault:
            offset = block.base + fault.offset
            raise DataError(f"{index.place(text, offset)}: {fault.message}") from fault
        gatherer.add(sums, block.buffer, values.values, num_rows, block.base)
