"""Parses CSV bytes into float32 arrays: chooses the fields, calls the compiled loop and explains faulty rows."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from disttrain.data.csv import field_scanner

_PENDING = 256  # numbers that a scan may leave to Python before it must return
_SHOWN = 40  # characters of a faulty text that a message shows
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|nan|inf|infinity)", re.IGNORECASE)

FaultKind = Literal["fields", "text", "empty", "quote", "nul", "gap", "kind", "label", "weight", "class"]
_ENCODED = {
    "kind": "expected a {kind}; correct the line, or say that it stands for nothing with --missing-values",
    "gap": "but nothing was said about gaps; fill it in, remove the line, or add --missing",
    "label": "but the training data has no such label; correct the line",
    "weight": "expected a weight of 0 or more; correct the line",
    "class": "but --class-weights has no such class; correct the line",
}


@dataclass(frozen=True)
class Layout:
    """How a row's fields become a row of the output.

    `take` (int32 `[num_fields]`) holds the output column of each field, or -1 for a field that is not wanted; every
    one of the `num_columns` output columns must be named once. `delimiter` is a byte.
    """

    num_fields: int
    take: npt.NDArray[np.int32]
    num_columns: int
    delimiter: int = ord(",")

    def of_fields(self, take: npt.NDArray[np.int32]) -> Layout:
        """Returns the layout of the same columns where the fields stand in another order."""
        return self if take is self.take else Layout(len(take), take, self.num_columns, self.delimiter)

    def __post_init__(self) -> None:
        assert self.take.shape == (self.num_fields,), "take has one entry per field"
        assert sorted(self.take[self.take >= 0].tolist()) == list(range(self.num_columns)), "each column is taken once"
        assert self.num_columns > 0, "a layout takes at least one column"


class ParseFault(Exception):  # the caller adds file and line, and raises a DataError
    """A row that is not what the layout expects.

    `kind`: "fields" (too few or too many), "text" (no number where one is wanted), "empty" (nothing where a number is
    wanted), "quote" (a quote that never ends, or encloses anything but a whole number where one is wanted) or "nul"
    (the line holds NUL bytes); of encoded columns, "gap" (nothing where something is wanted), "kind" (nothing of
    `kind_of_column`), "label", "class" (unknown ones) or "weight" (below 0, or no number).
    `offset`: where the row starts in the buffer, in bytes. `field`: the faulty field's number, counted from 0, or None
    when the row has the wrong number of fields, which is then `num_fields`. `text`: the field (or row), shortened.
    """

    def __init__(
        self,
        kind: FaultKind,
        offset: int,
        text: str,
        *,
        field: int | None,
        num_fields: int | None,
        expected_fields: int,
        kind_of_column: str = "number",
    ) -> None:
        self.kind = kind
        self.offset = offset
        self.text = text
        self.field = field
        self.num_fields = num_fields
        self.expected_fields = expected_fields
        self.kind_of_column = kind_of_column
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """What is wrong, without file, line and column name."""
        return self.describe()

    def describe(self, names: Sequence[str] | None = None) -> str:
        """Returns what is wrong and what to do, with the field's name if `names` has it."""
        if self.kind == "nul":
            return (
                f"the line holds NUL bytes, as a program leaves when it is killed while writing: '{self.text}'; "
                "remove them or write the file again"
            )
        if self.field is None:
            holds = f"the row has {_count(self.num_fields or 0)}, expected {self.expected_fields}: '{self.text}'"
            comment = "; to skip lines that begin with '#', add --comment '#'" if self.text.startswith("#") else ""
            return f"{holds}{comment or '; correct the line'}"
        is_named = names is not None and self.field < len(names)
        label = f"column '{names[self.field]}'" if is_named else f"field {self.field + 1}"  # type: ignore[index]
        if self.kind in _ENCODED:
            return f"{label} holds '{self.text}', {_ENCODED[self.kind].format(kind=self.kind_of_column)}"
        remedy = "correct the line or leave the column out with --features"
        if self.kind == "empty":
            remedy = "fill it in, remove the line, or leave the column out with --features"
            return f"{label} is empty, expected a number; {remedy}"
        if self.kind == "quote":
            is_open = self.text[:1] == '"' and self.text[-1:] != '"'
            more = ", or add --quoted-newlines if fields hold line breaks" if is_open else ""
            return (
                f"{label} holds '{self.text}', but quotes may only enclose one whole number on one line; {remedy}{more}"
            )
        return f"{label} holds '{self.text}', expected a number; {remedy}"


def parse_rows(
    buffer: npt.NDArray[np.uint8],
    start: int,
    stop: int,
    layout: Layout,
    out: npt.NDArray[np.float32],
) -> tuple[int, int, bool]:
    """Parses the lines in `buffer[start:stop]` into the first rows of `out` until it is full or the bytes end.

    `start` is a line's first byte; `stop` ends the last line if no line feed does. `out` is float32
    `[rows, num_columns]`, C-contiguous. Each value equals `numpy.float32(text)` bit for bit. Blank lines are skipped.
    Returns the number of rows written, the position after the last byte used (`stop` if the bytes ended), and whether
    any number is so large that float32 does not hold every whole number of its size.
    Raises `ParseFault`; the rows before the faulty one are then written. Other threads run meanwhile (no GIL).
    """
    assert 0 <= start <= stop <= len(buffer), "the part lies in the buffer"
    assert out.shape == (len(out), layout.num_columns), "out has the layout's columns"
    assert out.flags.c_contiguous, "out is C-contiguous"
    scan = field_scanner.scan_rows()
    pending = np.empty((max(_PENDING, layout.num_columns), 3), np.int64)
    num_rows, has_large = 0, False
    while True:
        rest = out[num_rows:].reshape(-1)
        status, written, start, num_pending, is_large = scan(
            buffer, start, stop, layout.delimiter, layout.take, layout.num_columns, rest, pending
        )
        _settle(buffer, pending[:num_pending], rest)
        num_rows += written
        has_large |= is_large
        if status == field_scanner.FAULT:
            wanted = np.flatnonzero(layout.take >= 0).tolist()
            raise find_fault(buffer[start:stop].tobytes(), start, layout.num_fields, layout.delimiter, wanted)
        if status == field_scanner.DONE:
            return num_rows, start, has_large


class RowParser(Protocol):
    """Parses rows of one file for one thread.

    `num_columns` of a parsed row; `raw_take` int32 [fields] is not negative for fields whose numbers become float32 as
    they are, which may lose digits.
    """

    num_columns: int
    raw_take: npt.NDArray[np.int32]

    def parse(
        self, buffer: npt.NDArray[np.uint8], start: int, stop: int, out: npt.NDArray[np.float32]
    ) -> tuple[int, int, bool]:
        """Parses lines into the first rows of `out`, as `parse_rows` does."""


class PlainParser:
    """Parses rows of plain numbers."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.num_columns = layout.num_columns
        self.raw_take = layout.take

    def parse(
        self, buffer: npt.NDArray[np.uint8], start: int, stop: int, out: npt.NDArray[np.float32]
    ) -> tuple[int, int, bool]:
        """Parses lines into the first rows of `out`, as `parse_rows` does."""
        return parse_rows(buffer, start, stop, self._layout, out)


def compile_kernels() -> float:
    """Compiles the parser, or loads it from numba's cache on disk; returns the seconds that this took."""
    started = time.perf_counter()
    field_scanner.scan_rows()
    return time.perf_counter() - started


def _settle(buffer: npt.NDArray[np.uint8], pending: npt.NDArray[np.int64], flat: npt.NDArray[np.float32]) -> None:
    """Writes the numbers that the kernel could not round with certainty: CPython rounds to double, numpy to float32."""
    with np.errstate(over="ignore", under="ignore"):
        for slot, first, stop in pending.tolist():
            flat[slot] = np.float64(float(buffer[first:stop].tobytes()))


def find_fault(rest: bytes, offset: int, num_fields: int, delimiter: int, numbers: Sequence[int]) -> ParseFault:
    """Returns what is wrong with the row that `rest` starts with, which a kernel refused.

    Args:
        rest: bytes from the row's start on.
        offset: where that is in the buffer.
        num_fields: fields that a row must have.
        delimiter: the byte between them.
        numbers: the fields that must hold numbers.
    """

    def fault(kind: FaultKind, text: bytes, field: int | None = None, found: int | None = None) -> ParseFault:
        return ParseFault(kind, offset, shorten(text), field=field, num_fields=found, expected_fields=num_fields)

    line = rest.partition(b"\n")[0]
    if b"\0" in line:
        return fault("nul", line.strip())
    fields, whole = fields_of(line, delimiter)
    if not whole:
        return fault("quote", fields[-1], field=len(fields) - 1)
    if len(fields) != num_fields:
        return fault("fields", line.strip(), found=len(fields))
    for field in numbers:
        text = fields[field]
        quoted = len(text) > 1 and text[:1] == text[-1:] == b'"'
        number = text[1:-1].strip(b" \t") if quoted else text
        if not number:
            return fault("empty", text, field=field)
        if not _NUMBER.fullmatch(number):
            return fault("quote" if b'"' in text else "text", text, field=field)
    return fault("text", line.strip(), field=0)


def fields_of(line: bytes, delimiter: int) -> tuple[list[bytes], bool]:
    """Returns a line's fields without the blanks around them, and whether every quote that begins a field is closed.

    If one is not, its field is the last and holds the rest of the line.
    """
    spans, is_whole = field_spans(line, delimiter)
    return [line[start:stop] for start, stop in spans], is_whole


def field_spans(line: bytes, delimiter: int) -> tuple[list[tuple[int, int]], bool]:
    """Returns where the fields of `fields_of` stand in the line."""
    pads = bytes(byte for byte in b" \t" if byte != delimiter)
    end = re.escape(bytes([delimiter]))
    quoted, plain = rb'"(?:[^"]|"")*"(?!")[^%b]*' % end, rb'(?![%b"])[^%b]*' % (pads, end)
    field = re.compile(rb"[%b]*(%b|%b)(%b|\Z)" % (pads, quoted, plain, end))
    line = re.sub(rb"\r[ \t\r]*\Z", b"", line)
    spans: list[tuple[int, int]] = []
    position = 0
    while match := field.match(line, position):
        spans.append((match.start(1), match.start(1) + len(match[1].rstrip(pads))))
        position = match.end()
        if not match[2]:
            return spans, True
    first = len(line) - len(line[position:].lstrip(pads))
    return [*spans, (first, max(len(line.rstrip(pads)), first))], False


def shorten(text: bytes) -> str:
    """Returns a text as a message shows it: printable, and not too long."""
    shown = text.decode("utf-8", "replace")
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown[: _SHOWN + 1])
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."


def _count(num_fields: int) -> str:
    return "1 field" if num_fields == 1 else f"{num_fields} fields"
