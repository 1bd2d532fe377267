"""The formats in which predictions are written: a part of the rows at a time, then all parts joined."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterable
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet
from pyarrow import compute

from disttrain.errors import UsageError

_COPY_BYTES = 1 << 20


class Format(Protocol):
    """How a table is written."""

    suffix: str

    def write_part(self, table: pa.Table, stream: BinaryIO) -> None:
        """Writes some rows."""

    def join(self, schema: pa.Schema, parts: Iterable[BinaryIO], stream: BinaryIO) -> None:
        """Writes the whole file, given its parts one after the other; a part is read when it is asked for."""


class Csv:
    """Comma-separated values with a header; what is not there is an empty field."""

    suffix = ".csv"

    def write_part(self, table: pa.Table, stream: BinaryIO) -> None:
        """Writes lines without a header; only fields that need them have quotes."""
        fields = [_as_fields(column) for column in table.columns]
        lines = compute.binary_join_element_wise(*fields, _text(","), null_handling="replace")
        whole = lines.combine_chunks() if isinstance(lines, pa.ChunkedArray) else lines
        text = compute.binary_join(pa.LargeListArray.from_arrays([0, len(whole)], whole), _text("\n"))[0]
        stream.write(text.as_buffer())
        stream.write(b"\n")

    def join(self, schema: pa.Schema, parts: Iterable[BinaryIO], stream: BinaryIO) -> None:
        """Writes the header, then all lines."""
        head = io.StringIO()
        csv.writer(head, lineterminator="\n").writerow(schema.names)
        stream.write(head.getvalue().encode())
        for part in parts:
            shutil.copyfileobj(part, stream, _COPY_BYTES)


class Parquet:
    """Parquet: each part is a row group."""

    suffix = ".parquet"

    def write_part(self, table: pa.Table, stream: BinaryIO) -> None:
        """Writes a file of its own."""
        pyarrow.parquet.write_table(table, stream)

    def join(self, schema: pa.Schema, parts: Iterable[BinaryIO], stream: BinaryIO) -> None:
        """Writes one file, a part at a time."""
        with pyarrow.parquet.ParquetWriter(stream, schema) as writer:
            for part in parts:
                writer.write_table(pyarrow.parquet.read_table(part, schema=schema))


def _text(text: str) -> Any:
    return pa.scalar(text, pa.large_string())


def _as_fields(column: Any) -> Any:
    """Returns a column's values as fields of a CSV."""
    if not pa.types.is_string(column.type):
        return column.cast(pa.large_string())
    texts = column.cast(pa.large_string())
    doubled = compute.replace_substring(texts, '"', '""')
    quoted = compute.binary_join_element_wise(_text('"'), doubled, _text('"'), _text(""))
    return compute.if_else(compute.match_substring_regex(texts, '[",\r\n]'), quoted, texts)


def format_of(output: str) -> Format:
    """Returns the format that a file's name asks for; UsageError for another."""
    for one in (Csv(), Parquet()):
        if output.lower().endswith(one.suffix):
            return one
    raise UsageError(f"--output {output}: its name must end in .csv or .parquet")
