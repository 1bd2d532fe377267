"""Encodes typed values as rows of float32: scaled numbers, indices of categories, parts of times, weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from disttrain.data.table.values import GAP, NUMBER, TEXT, TIME, Values
from disttrain.native import bits_of_double, called, compiled, inlined

NUMBERS, VOCABULARY, HASH, PARTS, WEIGHT = range(5)  # how a column is encoded
FAULT_GAP, FAULT_KIND, FAULT_LABEL, FAULT_WEIGHT, FAULT_CLASS = range(1, 6)
_DAY_S = 86_400.0
_TURN = 2 * np.pi


@dataclass(frozen=True, eq=False)
class Plan:
    """How columns become the slots of a row, as arrays for the compiled loop.

    Attributes:
        words: int64 [columns, 8]: how the column is encoded; its first slot; the slot of its indicator, or -1; whether
            a gap is a fault, filled (1) or drops the row (2); where its vocabulary begins; its size minus one, or the
            number of bins; bits of a time's parts; whether a text that is not in the vocabulary is a fault.
        reals: float64 [columns, 3]: offset and scale of numbers, and what fills a gap.
        tags: uint8 [columns]: bits of the tags that it may have.
        keys: uint64, the vocabularies' hash tables one after the other; `indices` float32, what each key becomes.
        weight_slot: of the row's weight, or -1.
        classes: the encoded targets that have weights, float32 ascending; `class_weights` float32; `class_slot` the
            target's slot, or -1.
        num_slots: of a row.
    """

    words: npt.NDArray[np.int64]
    reals: npt.NDArray[np.float64]
    tags: npt.NDArray[np.uint8]
    keys: npt.NDArray[np.uint64]
    indices: npt.NDArray[np.float32]
    weight_slot: int
    classes: npt.NDArray[np.float32]
    class_weights: npt.NDArray[np.float32]
    class_slot: int
    num_slots: int

    def encode(self, values: Values, num_rows: int, out: npt.NDArray[np.float32]) -> tuple[int, int, int]:
        """Encodes the first rows into `out`, float32 [rows, num_slots]: returns (fault or 0, row, column)."""
        return encode()(
            values.values, values.tags, num_rows, self.words, self.reals, self.tags, self.keys, self.indices,
            self.weight_slot, self.classes, self.class_weights, self.class_slot, out,
        )  # fmt: skip


def hash_table(fingerprints: list[int], first: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
    """Returns keys and indices of a hash table of 64-bit fingerprints, of which two texts never share one in practice.

    The table is at most half full, and a free place has index -1; an entry has its place in the list plus `first`.
    """
    size = 1 << (2 * len(fingerprints) + 1).bit_length()
    keys, indices = np.zeros(size, np.uint64), np.full(size, -1, np.float32)
    for index, key in enumerate(fingerprints):
        place = key & (size - 1)
        while indices[place] >= 0:
            place = (place + 1) & (size - 1)
        keys[place], indices[place] = key, first + index
    return keys, indices


@inlined
def _looked_up(key: Any, keys: Any, indices: Any, start: Any, mask: Any) -> Any:
    place = key & np.uint64(mask)
    while indices[np.uint64(start) + place] >= 0:
        if keys[np.uint64(start) + place] == key:
            return indices[np.uint64(start) + place]
        place = (place + np.uint64(1)) & np.uint64(mask)
    return np.float32(-1)


@called
def _write_parts(seconds: Any, wanted: Any, out: Any, slot: Any) -> Any:
    """Writes sine and cosine of each wanted part of a time, as an angle."""
    days = np.floor(seconds / _DAY_S)
    of_day = seconds - days * _DAY_S
    shifted = np.int64(days) + 719468  # days since 0000-03-01 (H. Hinnant, "chrono-compatible algorithms")
    of_era = shifted % 146097
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5
    for part in range(5):
        if not wanted >> part & 1:
            continue
        if part == 0:
            share = ((month + 2) % 12 + day / 31.0) / 12.0
        elif part == 1:
            share = (day + of_day / _DAY_S) / 31.0
        elif part == 2:
            share = ((np.int64(days) + 3) % 7) / 7.0
        elif part == 3:
            share = of_day / _DAY_S
        else:
            share = (of_day % 3600.0) / 3600.0
        out[slot], out[slot + 1] = np.float32(np.sin(_TURN * share)), np.float32(np.cos(_TURN * share))
        slot += 2


@called
def _are(tag: Any, num_rows: Any, wanted: Any) -> Any:
    others = np.int64(0)
    for row in range(num_rows):
        others += tag[row] != wanted
    return others == 0


@called
def _weigh_classes(num_rows: Any, weight_slot: Any, classes: Any, class_weights: Any, class_slot: Any, out: Any) -> Any:
    """Multiplies each row's weight by that of its class."""
    for row in range(num_rows):
        place = np.searchsorted(classes, out[row, class_slot])
        if place == len(classes) or classes[place] != out[row, class_slot]:
            if out[row, weight_slot] == 0:
                continue
            return FAULT_CLASS, row, -1
        out[row, weight_slot] *= class_weights[place]
    return 0, 0, 0


def _encode(
    values: Any, tags: Any, num_rows: Any, words: Any, reals: Any, allowed: Any, keys: Any, indices: Any,
    weight_slot: Any, classes: Any, class_weights: Any, class_slot: Any, out: Any,
) -> Any:  # fmt: skip
    if weight_slot >= 0:
        for row in range(num_rows):
            out[row, weight_slot] = np.float32(1)
    for column in range(values.shape[0]):
        own_words = words[column]
        how, slot, indicator, on_gap = own_words[0], own_words[1], own_words[2], own_words[3]
        start, size, parts, is_closed = own_words[4], own_words[5], own_words[6], own_words[7]
        offset, scale, fill = reals[column, 0], reals[column, 1], reals[column, 2]
        own, tag = values[column], tags[column]
        if how == NUMBERS and indicator < 0 and _are(tag, num_rows, NUMBER) and allowed[column] & 1:
            for row in range(num_rows):
                out[row, slot] = np.float32((own[row] - offset) / scale)
            continue
        if how == VOCABULARY and _are(tag, num_rows, TEXT):
            for row in range(num_rows):
                index = _looked_up(bits_of_double(own[row]), keys, indices, start, size)
                if index < 0 and is_closed:
                    return FAULT_LABEL, row, column
                out[row, slot] = max(index, np.float32(0))
            continue
        for row in range(num_rows):
            if tag[row] == GAP:
                if on_gap == 0:
                    return FAULT_GAP, row, column
                if on_gap == 2:
                    out[row, weight_slot] = np.float32(0)
                for place in range(size if how == PARTS else how != WEIGHT):
                    out[row, slot + place] = np.float32(fill)
                if indicator >= 0:
                    out[row, indicator] = np.float32(1)
                continue
            if not allowed[column] >> tag[row] & 1:
                return FAULT_KIND, row, column
            if indicator >= 0:
                out[row, indicator] = np.float32(0)
            if how == NUMBERS:
                out[row, slot] = np.float32((own[row] - offset) / scale)
            elif how == VOCABULARY:
                index = _looked_up(bits_of_double(own[row]), keys, indices, start, size)
                if index < 0:
                    if is_closed:
                        return FAULT_LABEL, row, column
                    index = np.float32(0)
                out[row, slot] = index
            elif how == HASH:
                out[row, slot] = np.float32(bits_of_double(own[row]) % np.uint64(size))
            elif how == PARTS:
                _write_parts(own[row], parts, out[row], slot)
            else:
                if not (own[row] >= 0 and np.isfinite(own[row])):
                    return FAULT_WEIGHT, row, column
                out[row, slot] *= np.float32(own[row])
    return (
        _weigh_classes(num_rows, weight_slot, classes, class_weights, class_slot, out) if class_slot >= 0 else (0, 0, 0)
    )


@functools.cache
def encode() -> Callable[..., tuple[int, int, int]]:
    """Returns `_encode`, compiled without the GIL."""

    def array(dtype: Any, ndim: int) -> Any:
        return types.Array(dtype, ndim, "C")

    word, real, small = types.int64, types.float64, types.float32
    arguments = (
        array(real, 2), array(types.uint8, 2), word, array(word, 2), array(real, 2), array(types.uint8, 1),
        array(types.uint64, 1), array(small, 1), word, array(small, 1), array(small, 1), word, array(small, 2),
    )  # fmt: skip
    results = types.Tuple((word, word, word))  # type: ignore[no-untyped-call]
    return compiled(_encode, results(*arguments), error_model="numpy")


assert (NUMBER, GAP, TEXT, TIME) == (0, 1, 2, 3), "`tags` has their bits"
