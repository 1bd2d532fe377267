"""The fields of some columns as they stand in the files, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from disttrain.data.csv.header import Header
from disttrain.data.csv.normalizer import normalizer_of
from disttrain.data.csv.parser import field_spans
from disttrain.data.csv.readahead import Block, line_blocks
from disttrain.data.csv.source import Source
from disttrain.data.ranges import Range
from disttrain.data.table.values import text_of
from disttrain.errors import DataError
from disttrain.threads import DaemonPool


def fields_of_rows(source: Source, rows: Range, names: Sequence[str]) -> list[list[str]]:
    """Returns, for each named column, the texts that it holds in these rows, which all have as many fields.

    Raises:
        DataError: for a text that is not UTF-8.
    """
    found: list[list[str]] = [[] for _ in names]
    for block, header in blocks_of_rows(source, rows):
        _add(found, source, block, header, names)
    for name, texts in zip(names, found, strict=True):
        _check_utf_8(source, rows, name, texts)
    return found


def blocks_of_rows(source: Source, rows: Range) -> Iterator[tuple[Block, Header]]:
    """Yields the lines of some rows, as the parser gets them, each block with the header of its file."""
    pool = DaemonPool(1, "read-fields")
    normalizer = normalizer_of(source.header.dialect)
    try:
        for part in source.split_by_order(rows):
            span = source.row_offset(part.start), source.row_offset(part.stop)
            for block in line_blocks(
                source.text.reader, iter([span]), pool, block_bytes=source.block_bytes, normalizer=normalizer
            ):
                yield block, source.text.files[source.text.file_at(block.base + block.start)].header
    finally:
        pool.close()


def _add(found: list[list[str]], source: Source, block: Block, header: Header, names: Sequence[str]) -> None:
    places = [header.names.index(name) for name in names]
    delimiter, plain = ord(header.delimiter), block.buffer[block.start : block.stop].tobytes()
    written = plain if header.dialect.is_plain else _as_written(source, block)
    start = 0
    for line in plain.split(b"\n"):
        if line.strip(header.blanks):
            spans, _ = field_spans(line, delimiter)
            for texts, place in zip(found, places, strict=True):
                first, stop = spans[place] if place < len(spans) else (0, 0)
                field = written[start + first : start + stop]
                is_quoted = len(field) > 1 and field[:1] == b'"' == field[-1:]
                texts.append(text_of(field[1:-1] if is_quoted else field, is_quoted=is_quoted))
        start += len(line) + 1


def _as_written(source: Source, block: Block) -> bytes:
    """Returns a block's bytes as they are in the file: the normalizer has rewritten them, each in its place."""
    raw = bytearray(block.stop - block.start)
    source.text.reader.read_into(block.base + block.start, memoryview(raw))
    return bytes(raw)


def _check_utf_8(source: Source, rows: Range, name: str, texts: Sequence[str]) -> None:
    for number, text in enumerate(texts):
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            place = source.place_of(rows.start + number)
            raise DataError(f"{place}: column '{name}' is not UTF-8; name the file's encoding with --encoding")
