"""Sums over typed values, compiled: what the statistics of columns are made of, the same whoever adds up which part.

A part of a dataset is summed up by itself, in its order; the parts' sums are then joined in the order of the parts
(Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983). As the parts do not depend on how many
workers and threads there are, the result is the same to the bit. Distinct values are counted in a table until a column
has too many, then by HyperLogLog (Flajolet et al., 2007): both are joined in any order. The median is that of the
rows with the smallest hashes of their offsets (bottom-k sampling, Cohen and Kaplan, 2007): of all rows if they are few.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import types

from disttrain.data.table.values import GAP, NUMBER, TEXT, TIME
from disttrain.native import bits_of_double, called, compiled, leading_zeros

# The columns of `floats` and `counts`.
MEAN, SQUARES, LOWEST, HIGHEST, FIRST, LAST = range(6)  # SQUARES: of the differences from the mean, summed
(
    NUMBERS, TIMES, TEXTS, GAPS, NOT_FINITE, NOT_WHOLE, FALLS, RISES, FIRST_GAP, FIRST_TEXT, FIRST_ODD,
) = range(11)  # fmt: skip
NUM_FLOATS, NUM_COUNTS = 6, 11
NOWHERE = np.int64(2**62)  # an offset of nothing

HASH_BITS = 12  # 4,096 registers: a standard error of 1.6%
NUM_REGISTERS = 1 << HASH_BITS

QUOTE = 34
QUOTED = 2  # of an entry: a text that stood in quotes
BYTES = 2  # the column of `room` for bytes

_U0, _U1, _U12, _U30, _U27, _U31, _U52 = (np.uint64(n) for n in (0, 1, 12, 30, 27, 31, 52))
_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@called
def _mixed(word: Any) -> Any:
    """Returns a hash of a word (SplitMix64's finalizer)."""
    word = word + _GOLDEN
    word = (word ^ (word >> _U30)) * _MIX_1
    word = (word ^ (word >> _U27)) * _MIX_2
    return word ^ (word >> _U31)


@called
def _note(registers: Any, hashed: Any) -> Any:
    """Notes a value's hash in HyperLogLog's registers of its column."""
    place = hashed >> _U52
    zeros = np.uint8(min(leading_zeros((hashed << _U12) | (_U1 << np.uint64(HASH_BITS - 1))), np.uint64(63)) + _U1)
    if registers[place] < zeros:
        registers[place] = zeros


@called
def _slot(keys: Any, columns: Any, key: Any, column: Any) -> Any:
    """Returns the place of a key of a column in the table: its own, or the free one where it belongs."""
    mask = np.uint64(len(keys) - 1)
    place = (key + np.uint64(column) * _MIX_1) & mask
    while columns[place] >= 0 and not (keys[place] == key and columns[place] == column):
        place = (place + _U1) & mask
    return place


@called
def _are_numbers(tag: Any, num_rows: Any) -> Any:
    """Returns whether the first rows of a column are all numbers."""
    others = np.int64(0)
    for row in range(num_rows):
        others += tag[row] != NUMBER
    return others == 0


@called
def _all_of(own: Any, num_rows: Any) -> Any:
    """Returns (total, lowest, highest) of `num_rows` numbers, a multiple of four, in four strands at a time."""
    t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
    l0 = h0 = own[0]
    l1, l2, l3, h1, h2, h3 = l0, l0, l0, h0, h0, h0
    for row in range(0, num_rows, 4):
        a, b, c, d = own[row], own[row + 1], own[row + 2], own[row + 3]
        t0, t1, t2, t3 = t0 + a, t1 + b, t2 + c, t3 + d
        l0, l1, l2, l3 = min(l0, a), min(l1, b), min(l2, c), min(l3, d)
        h0, h1, h2, h3 = max(h0, a), max(h1, b), max(h2, c), max(h3, d)
    return (t0 + t1) + (t2 + t3), min(min(l0, l1), min(l2, l3)), max(max(h0, h1), max(h2, h3))


@called
def _squares_of(own: Any, num_rows: Any, mean: Any) -> Any:
    """Returns the summed squares of the differences from `mean`, in four strands at a time."""
    t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
    for row in range(0, num_rows, 4):
        a, b, c, d = own[row] - mean, own[row + 1] - mean, own[row + 2] - mean, own[row + 3] - mean
        t0, t1, t2, t3 = t0 + a * a, t1 + b * b, t2 + c * c, t3 + d * d
    return (t0 + t1) + (t2 + t3)


@called
def _join(sums: Any, known: Any, number: Any, mean: Any, squares: Any, lowest: Any, highest: Any) -> Any:
    """Joins `number` more values with the `known` ones of a column's sums (Chan et al.)."""
    share = number / (known + number)
    apart = mean - sums[MEAN]
    sums[MEAN] += apart * share
    sums[SQUARES] += squares + apart * apart * known * share
    sums[LOWEST], sums[HIGHEST] = min(sums[LOWEST], lowest), max(sums[HIGHEST], highest)


@called
def _add_numbers(own: Any, num_rows: Any, sums: Any, count: Any) -> Any:
    """Adds rows that are all numbers; returns False, and adds nothing, if one of them is not finite."""
    total, lowest, highest = _all_of(own, num_rows)
    if not np.isfinite(total):
        return False
    not_whole, falls, rises = np.int64(0), np.int64(0), np.int64(0)
    for row in range(num_rows):
        not_whole += own[row] != np.floor(own[row])
    for row in range(1, num_rows):
        falls += own[row] < own[row - 1]
        rises += own[row] > own[row - 1]
    known = count[NUMBERS] + count[TIMES]
    if known:
        falls += own[0] < sums[LAST]
        rises += own[0] > sums[LAST]
    else:
        sums[FIRST] = own[0]
    count[NOT_WHOLE] += not_whole
    count[FALLS] += falls
    count[RISES] += rises
    count[NUMBERS] += num_rows
    mean = total / num_rows
    _join(sums, known, num_rows, mean, _squares_of(own, num_rows, mean), lowest, highest)
    sums[LAST] = own[num_rows - 1]
    return True


@called
def _add_any(own: Any, tag: Any, first_row: Any, num_rows: Any, starts: Any, base: Any, sums: Any, count: Any) -> Any:
    """Adds the rows `[first_row, num_rows)` of a column, whatever they hold."""
    number, total, lowest, highest = 0, 0.0, np.inf, -np.inf
    last, known = sums[LAST], count[NUMBERS] + count[TIMES]
    for row in range(first_row, num_rows):
        value = own[row]
        if tag[row] == GAP:
            count[GAPS] += 1
            count[FIRST_GAP] = min(count[FIRST_GAP], base + starts[row])
        elif tag[row] == TEXT:
            count[TEXTS] += 1
            count[FIRST_TEXT] = min(count[FIRST_TEXT], base + starts[row])
        elif not np.isfinite(value):
            count[NOT_FINITE] += 1
            count[FIRST_ODD] = min(count[FIRST_ODD], base + starts[row])
        else:
            number += 1
            total += value
            lowest, highest = min(lowest, value), max(highest, value)
            count[NOT_WHOLE] += value != np.floor(value)
            count[TIMES] += tag[row] == TIME
            if known + number > 1:
                count[FALLS] += value < last
                count[RISES] += value > last
            else:
                sums[FIRST] = value
            last = value
    if number == 0:
        return
    mean, squares = total / number, 0.0
    for row in range(first_row, num_rows):
        if (tag[row] == NUMBER or tag[row] == TIME) and np.isfinite(own[row]):
            squares += (own[row] - mean) ** 2
    _join(sums, known, number, mean, squares, lowest, highest)
    sums[LAST] = last
    count[NUMBERS] = known + number - count[TIMES]


def _add_sums(values: Any, tags: Any, num_rows: Any, row_starts: Any, base: Any, floats: Any, counts: Any) -> None:
    """Adds the first `num_rows` rows to each column's sums; `base` is the file's offset of the buffer."""
    fours = num_rows & ~3
    for column in range(values.shape[0]):
        own, tag, sums, count = values[column], tags[column], floats[column], counts[column]
        done = 0
        if fours and _are_numbers(tag, fours) and _add_numbers(own, fours, sums, count):
            done = fours
        _add_any(own, tag, done, num_rows, row_starts, base, sums, count)


def _add_distinct(
    buffer: Any, values: Any, tags: Any, bounds: Any, num_rows: Any, keys: Any, columns: Any, counts: Any, is_text: Any,
    places: Any, arena: Any, room: Any, registers: Any, used: Any,
) -> None:  # fmt: skip
    """Counts the values of the first `num_rows` rows in the table, which has room for them all.

    `room` int64 [columns, 3] is how many more distinct numbers, texts and bytes of texts of a column the table takes;
    below 0, it has overflowed. `used` int64 [2]: entries of the table and bytes of the arena in use. `places`
    int64 [entries, 2]: where
    a text begins in the arena and its length.
    """
    for column in range(values.shape[0]):
        if room[column, 0] < 0 and _are_numbers(tags[column], num_rows):
            for row in range(num_rows):
                if np.isfinite(values[column, row]):
                    _note(registers[column], _mixed(bits_of_double(values[column, row] + 0.0)))
            continue
        for row in range(num_rows):
            tag = tags[column, row]
            if tag == GAP:
                continue
            text = np.int64(tag == TEXT)
            if text:
                hashed = key = bits_of_double(values[column, row])
            elif np.isfinite(values[column, row]):
                key = bits_of_double(values[column, row] + 0.0)  # -0.0 is 0.0
                hashed = _mixed(key)
            else:
                continue
            if room[column, text] < 0:
                _note(registers[column], hashed)
                continue
            place = _slot(keys, columns, hashed, column)
            if columns[place] >= 0:
                counts[place] += 1
                continue
            room[column, text] -= 1
            if room[column, text] < 0:
                _note(registers[column], hashed)
                continue
            keys[place], columns[place], counts[place], is_text[place] = hashed, column, 1, text
            used[0] += 1
            if text:
                first, length = bounds[column, row, 0], bounds[column, row, 1] - bounds[column, row, 0]
                if first > 0 and buffer[first - 1] == QUOTE:
                    is_text[place] = QUOTED
                room[column, BYTES] -= length
                if room[column, BYTES] < 0:
                    room[column, text] = -1
                arena[used[1] : used[1] + length] = buffer[first : first + length]
                places[place, 0], places[place, 1] = used[1], length
                used[1] += length
            else:
                places[place, 0] = np.int64(key)


def _move(
    keys: Any, columns: Any, counts: Any, is_text: Any, places: Any,
    new_keys: Any, new_columns: Any, new_counts: Any, new_is_text: Any, new_places: Any,
) -> None:  # fmt: skip
    """Moves a table's entries into a larger one."""
    for old in range(len(keys)):
        if columns[old] >= 0:
            new = _slot(new_keys, new_columns, keys[old], columns[old])
            new_keys[new], new_columns[new], new_counts[new] = keys[old], columns[old], counts[old]
            new_is_text[new] = is_text[old]
            new_places[new, 0], new_places[new, 1] = places[old, 0], places[old, 1]


def _note_table(keys: Any, columns: Any, registers: Any) -> None:
    """Notes the table's entries in the registers of their columns."""
    for place in range(len(keys)):
        if columns[place] >= 0:
            _note(registers[columns[place]], keys[place])


def _draw(
    values: Any, tags: Any, num_rows: Any, row_starts: Any, base: Any, limit: Any, hashes: Any, drawn: Any, size: Any
) -> Any:
    """Adds the rows whose offsets' hashes are below `limit` to a sample of `size` rows; returns its new size."""
    for row in range(num_rows):
        hashed = _mixed(np.uint64(base + row_starts[row]))
        if hashed < limit:
            hashes[size] = hashed
            for column in range(values.shape[0]):
                is_number = tags[column, row] == NUMBER or tags[column, row] == TIME
                drawn[size, column] = values[column, row] if is_number else np.nan
            size += 1
    return size


def _array(dtype: Any, ndim: int, *, readonly: bool = False) -> Any:
    return types.Array(dtype, ndim, "C", readonly=readonly)


_WORD, _KEY, _REAL, _BYTE = types.int64, types.uint64, types.float64, types.uint8
_TABLE = (_array(_KEY, 1), _array(types.int32, 1), _array(_WORD, 1), _array(_BYTE, 1), _array(_WORD, 2))


@functools.cache
def add_sums() -> Callable[..., None]:
    """Returns `_add_sums`, compiled without the GIL."""
    arguments = (_array(_REAL, 2), _array(_BYTE, 2), _WORD, _array(_WORD, 1), _WORD, _array(_REAL, 2), _array(_WORD, 2))
    return compiled(_add_sums, types.void(*arguments), error_model="numpy")


@functools.cache
def add_distinct() -> Callable[..., None]:
    """Returns `_add_distinct`, compiled without the GIL."""
    arguments = (
        _array(_BYTE, 1, readonly=True), _array(_REAL, 2), _array(_BYTE, 2), _array(_WORD, 3), _WORD, *_TABLE,
        _array(_BYTE, 1), _array(_WORD, 2), _array(_BYTE, 2), _array(_WORD, 1),
    )  # fmt: skip
    return compiled(_add_distinct, types.void(*arguments), error_model="numpy")


@functools.cache
def move_table() -> Callable[..., None]:
    """Returns `_move`, compiled without the GIL."""
    return compiled(_move, types.void(*_TABLE, *_TABLE), error_model="numpy")


@functools.cache
def note_table() -> Callable[..., None]:
    """Returns `_note_table`, compiled without the GIL."""
    return compiled(_note_table, types.void(*_TABLE[:2], _array(_BYTE, 2)), error_model="numpy")


@functools.cache
def draw() -> Callable[..., int]:
    """Returns `_draw`, compiled without the GIL."""
    arguments = (
        _array(_REAL, 2), _array(_BYTE, 2), _WORD, _array(_WORD, 1), _WORD, _KEY, _array(_KEY, 1), _array(_REAL, 2),
        _WORD,
    )  # fmt: skip
    return compiled(_draw, _WORD(*arguments), error_model="numpy")
