"""Parses rows of a CSV as a table says: typed values first, then the float32 numbers that they become."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from disttrain.data.csv.fingerprint64 import fingerprint_of
from disttrain.data.csv.header import Header
from disttrain.data.csv.parser import FaultKind, ParseFault, fields_of, shorten
from disttrain.data.csv.value_reader import ValueReader
from disttrain.data.csv.value_scanner import scan_values
from disttrain.data.digit_losses import WHOLE_TO
from disttrain.data.row_source import Floats
from disttrain.data.table import encoder
from disttrain.data.table.columns import Table
from disttrain.data.table.encoder import Plan

_KINDS: dict[int, FaultKind] = {
    encoder.FAULT_GAP: "gap",
    encoder.FAULT_KIND: "kind",
    encoder.FAULT_LABEL: "label",
    encoder.FAULT_WEIGHT: "weight",
    encoder.FAULT_CLASS: "class",
}


@dataclass(frozen=True, eq=False)
class Encoding:
    """How the rows of one file are encoded: `take` int32 [fields] is each field's column of the table, or -1."""

    table: Table
    take: npt.NDArray[np.int32]
    delimiter: int

    @classmethod
    def of(cls, header: Header, table: Table) -> Encoding:
        """Finds the table's columns in a file by name."""
        place = {column.name: number for number, column in enumerate(table.columns)}
        take = np.array([place.get(name, -1) for name in header.names], np.int32)
        return cls(table, take, ord(header.delimiter))

    @functools.cached_property
    def plan(self) -> Plan:
        """Tells how typed values are encoded."""
        return self.table.plan(fingerprint_of)

    @property
    def raw_take(self) -> npt.NDArray[np.int32]:
        """`take` with -1 for all columns whose numbers do not become float32 as they are."""
        raw = np.array([column.is_raw for column in self.table.columns] + [False])
        return np.where(raw[self.take], self.take, np.int32(-1)).astype(np.int32)

    def of_fields(self, take: npt.NDArray[np.int32]) -> Encoding:
        """Returns the encoding of the same columns where the fields stand in another order."""
        return self if take is self.take else replace(self, take=take)

    def targets_only(self) -> Encoding:
        """Returns the encoding of the targets alone."""
        table = replace(self.table, columns=self.table.targets, class_weights=None, is_weighted=False)
        kept = np.cumsum([column.role == "target" for column in self.table.columns]) - 1
        is_target = np.array([column.role == "target" for column in self.table.columns] + [False])
        take = np.where(is_target[self.take], np.append(kept, -1)[self.take], -1).astype(np.int32)
        return Encoding(table, take, self.delimiter)


class EncodedParser:
    """Parses rows of one file; a `RowParser`."""

    def __init__(self, encoding: Encoding) -> None:
        table = encoding.table
        self._encoding = encoding
        self._plan = encoding.plan
        as_text = [column.kind == "category" for column in table.columns]
        self._values = ValueReader(encoding.take, encoding.delimiter, as_text, table.gaps, keeps_bounds=False)
        self._raw = np.array([column.is_raw for column in table.columns])
        self.num_columns = table.num_slots
        self.raw_take = encoding.raw_take

    def parse(self, buffer: npt.NDArray[np.uint8], start: int, stop: int, out: Floats) -> tuple[int, int, bool]:
        """Parses the lines in `buffer[start:stop]` into the first rows of `out`, as `parser.parse_rows` does."""
        done, has_large = 0, False
        while done < len(out) and start < stop:
            count, position = self._values.read(buffer, start, stop, len(out) - done)
            values = self._values.values
            fault, row, column = self._plan.encode(values, count, out[done : done + count])
            if fault:
                raise self._fault(buffer, int(values.row_starts[row]), stop, fault, column)
            if self._raw.any():
                sizes = np.abs(values.values[self._raw, :count])
                has_large |= bool(((sizes > WHOLE_TO) & (sizes < np.inf)).any())
            done += count
            start = position
        return done, start, has_large

    def _fault(self, buffer: npt.NDArray[np.uint8], start: int, stop: int, fault: int, column: int) -> ParseFault:
        table, encoding = self._encoding.table, self._encoding
        if column < 0:  # the class of a row, which has no weight
            column = next(number for number, one in enumerate(table.columns) if one.role == "target")
        field = int(np.flatnonzero(encoding.take == column)[0])
        line = buffer[start:stop].tobytes().partition(b"\n")[0]
        text = fields_of(line, encoding.delimiter)[0][field]
        return ParseFault(
            _KINDS[fault], start, shorten(text), field=field, num_fields=None, expected_fields=len(encoding.take),
            kind_of_column=table.columns[column].kind,
        )  # fmt: skip


def compile_encoder() -> None:
    """Compiles what reads and encodes values, or loads it from numba's cache on disk."""
    scan_values()
    encoder.encode()
    fingerprint_of("")
