"""The fields of some columns as they stand in the files, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from disttrain.data.csv.normalizer import normalizer_of
from disttrain.data.csv.parser import fields_of
from disttrain.data.csv.readahead import Block, line_blocks
from disttrain.data.csv.source import Source
from disttrain.data.ranges import Range
from disttrain.data.table.values import text_of
from disttrain.threads import DaemonPool


def fields_of_rows(source: Source, rows: Range, names: Sequence[str]) -> list[list[str]]:
    """Returns, for each named column, the texts that it holds in these rows, which all have as many fields."""
    found: list[list[str]] = [[] for _ in names]
    pool = DaemonPool(1, "read-fields")
    try:
        for part in source.split_by_order(rows):
            span = source.row_offset(part.start), source.row_offset(part.stop)
            normalizer = normalizer_of(source.header.dialect)
            blocks = line_blocks(
                source.text.reader, iter([span]), pool, block_bytes=source.block_bytes, normalizer=normalizer
            )
            for block in blocks:
                _add(found, source, block, names)
    finally:
        pool.close()
    return found


def _add(found: list[list[str]], source: Source, block: Block, names: Sequence[str]) -> None:
    header = source.text.files[source.text.file_at(block.base + block.start)].header
    places = [header.names.index(name) for name in names]
    delimiter, pads = header.delimiter.encode(), header.blanks + b"\r"
    for line in _lines(block, header.blanks):
        fields = line.split(delimiter) if b'"' not in line else fields_of(line, delimiter[0])[0]
        for texts, place in zip(found, places, strict=True):
            field = fields[place].strip(pads) if place < len(fields) else b""
            is_quoted = len(field) > 1 and field[:1] == b'"' == field[-1:]
            texts.append(text_of(field[1:-1] if is_quoted else field, is_quoted=is_quoted))


def _lines(block: Block, blanks: bytes) -> Iterator[bytes]:
    for line in block.buffer[block.start : block.stop].tobytes().split(b"\n"):
        if line.strip(blanks):
            yield line
