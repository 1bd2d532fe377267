"""Typed values: what a dataset's reader makes of its fields, before they are summed up or encoded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NUMBER, GAP, TEXT, TIME, UNREAD = 0, 1, 2, 3, 4  # tags

# What stands for nothing, besides the empty field.
GAP_WORDS = ("NA", "N/A", "#N/A", "null", "NULL", "NaN", "?", "-", "None")


@dataclass(frozen=True, eq=False)
class Values:
    """The values of some rows, column by column.

    Attributes:
        values: float64 [columns, rows]: a number, a time in seconds since 1970, or the bits of a text's fingerprint.
        tags: uint8 [columns, rows]: which of these it is.
        bounds: int64 [columns, rows, 2]: where in the buffer a text stands.
        row_starts: int64 [rows]: where in the buffer each row starts.
    """

    values: npt.NDArray[np.float64]
    tags: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int64]
    row_starts: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, num_columns: int, num_rows: int) -> Values:
        """Makes room for so many rows."""
        shape = (num_columns, num_rows)
        return cls(
            np.empty(shape, np.float64),
            np.empty(shape, np.uint8),
            np.empty((*shape, 2), np.int64),
            np.empty(num_rows, np.int64),
        )


def numbers_of(words: Iterable[str]) -> list[float]:
    """Returns the numbers among words that stand for nothing, such as -999."""
    found = []
    for word in words:
        with suppress(ValueError):
            found.append(float(word))
    return [number for number in found if not math.isnan(number)]


def text_of(content: bytes, *, is_quoted: bool) -> str:
    """Returns the text of a field, without its quotes; bytes that are not UTF-8 become lone surrogates.

    The byte 0x81 alone stands for a line break within quotes (see `disttrain.data.csv.normalizer`).
    """
    text = (content.replace(b'""', b'"') if is_quoted else content).decode("utf-8", "surrogateescape")
    return text.replace("\udc81", "\n")
