"""The order of an epoch's rows: integers and seeds in, row ranges and in-place permutations out.

An epoch's order is made in two steps. First, the blocks of the index are permuted: a block is the rows that start in
one MiB of the file, which one read gets without a search. Then a shard's blocks are taken a few at a time, as a window,
and the rows of each window are permuted. Both steps depend on (file, columns, num_shards, seed, epoch) alone, and no
window depends on another, so that a run can begin anywhere in an epoch, on any world size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
import numpy.typing as npt
from numba.core import types

from disttrain.data.ranges import Range
from disttrain.data.sharding import shard_range
from disttrain.native import compiled, prefetch

ShuffleMode = Literal["none", "shard", "global"]

# The size of the windows of all shards together, as float32. A number's text is about 2.5 times as long. Where every
# column is used, the windows, and so each global batch, thus have rows of about 80 blocks. Over a sorted file, the
# batches' means then deviate by 1 / sqrt(12 x 80), 3% of the file's range; those of any 250 rows do by 2% anyway.
WINDOW_BYTES = 32 << 20
MIN_WINDOW_BLOCKS = 4  # even where many shards share the windows' bytes

_AHEAD = 32  # rows that are prefetched before they are exchanged: 4 instead of 12 ns per two-column row
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_STEP, _MIX_1, _MIX_2 = np.uint64(_GOLDEN), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_U27, _U30, _U31, _U32, _LOW = (np.uint64(n) for n in (27, 30, 31, 32, 0xFFFFFFFF))

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochOrder:
    """The order of an epoch's rows.

    `none`: the file's order. `shard`: each shard's own rows, permuted. `global`: the blocks are dealt to all shards
    anew in each epoch. Only `global` helps if the file is sorted: in the other two, a shard always has the same rows.
    """

    mode: ShuffleMode = "none"
    seed: int = 0
    epoch: int = 1


FILE_ORDER = EpochOrder()


@dataclass(frozen=True)
class Window:
    """Rows that are permuted together: those of `ranges`, one range after the other, by the permutation of `key`.

    `first_row` is the index of its first row in the shard's order, from 0.
    """

    ranges: tuple[Range, ...]
    key: int
    first_row: int
    num_rows: int


def block_bounds(first_rows: Int64s, num_rows: int) -> Int64s:
    """Returns the blocks' bounds, int64 [num_blocks + 1], from the first rows of the index's chunks; none is empty."""
    bounds: Int64s = np.unique(np.append(first_rows, num_rows))
    return bounds


def window_blocks(bounds: Int64s, num_shards: int, num_columns: int) -> int:
    """Returns the blocks per window: how many of the longest fit into a shard's part of `WINDOW_BYTES`.

    A block has at most 2 MiB as float32 (a number has at least two bytes of text), so `MIN_WINDOW_BLOCKS` are small.
    """
    longest_bytes = int(np.diff(bounds).max()) * num_columns * 4
    return max(WINDOW_BYTES // num_shards // longest_bytes, MIN_WINDOW_BLOCKS)


def shard_blocks(order: EpochOrder, bounds: Int64s, num_shards: int, shard: int) -> Int64s:
    """Returns the row ranges of a shard's part of the epoch's order, int64 [num_ranges, 2]: blocks, cut at its ends."""
    rows = shard_range(int(bounds[-1]), num_shards, shard)
    blocks = np.stack([bounds[:-1], bounds[1:]], 1)  # [num_blocks, 2]
    if order.mode == "global":
        blocks = blocks[permutation(len(blocks), key_of(order.seed, order.epoch))]
    stops = np.cumsum(blocks[:, 1] - blocks[:, 0])  # in the epoch's order, which is the file's unless `global`
    cut_left = np.maximum(rows.start - (stops - blocks[:, 1] + blocks[:, 0]), 0)
    cut_right = np.maximum(stops - rows.stop, 0)
    blocks = blocks + np.stack([cut_left, -cut_right], 1)
    blocks = np.compress(blocks[:, 0] < blocks[:, 1], blocks, axis=0)
    if order.mode == "shard":
        blocks = blocks[permutation(len(blocks), key_of(order.seed, order.epoch, shard))]
    return blocks


def shard_windows(
    order: EpochOrder, bounds: Int64s, num_shards: int, shard: int, blocks_per_window: int, first_row: int = 0
) -> Iterator[Window]:
    """Yields the windows of a shard's part of the epoch's order, from the one with its row `first_row` (from 0) on."""
    assert order.mode != "none", "the file's order has no windows"
    blocks = shard_blocks(order, bounds, num_shards, shard)
    start = 0
    for number, first in enumerate(range(0, len(blocks), blocks_per_window)):
        part = blocks[first : first + blocks_per_window]
        num_rows = int(np.sum(part[:, 1] - part[:, 0]))
        if start + num_rows > first_row:
            ranges = tuple(Range(*block) for block in part.tolist())
            yield Window(ranges, key_of(order.seed, order.epoch, shard, number), start, num_rows)
        start += num_rows


def permutation(length: int, key: int) -> Int64s:
    """Returns the numbers below `length` in the order that `key` gives."""
    numbers = np.arange(length, dtype=np.int64)
    permute_rows(numbers[:, np.newaxis], key)
    return numbers


def permute_rows(rows: npt.NDArray[Any], key: int) -> None:
    """Permutes the rows of a C-contiguous array `[rows, columns]` in place, as `key` determines, without the GIL.

    This is Fisher and Yates's shuffle. The same key gives the same permutation, whatever the columns. Numbers are drawn
    with SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) and brought into range by multiplication, with a bias below
    rows / 2^64.
    """
    assert rows.flags.c_contiguous
    assert rows.dtype.itemsize % 4 == 0, "a row is whole 32-bit words"
    if len(rows) < 2:
        return
    word = np.uint64 if rows[0].nbytes % 8 == 0 else np.uint32
    _compiled(word)(rows.reshape(-1).view(word).reshape(len(rows), -1), np.uint64(key))


def compile_permutation() -> None:
    """Compiles the permutation of rows of any width, or loads it from numba's cache on disk."""
    _compiled(np.uint64)
    _compiled(np.uint32)


def key_of(*words: int) -> int:
    """Returns 64 bits that depend on all words."""
    key = 0
    for word in words:
        key = (key ^ word) + _GOLDEN & _MASK
        key = (key ^ key >> 30) * int(_MIX_1) & _MASK
        key = (key ^ key >> 27) * int(_MIX_2) & _MASK
        key ^= key >> 31
    return key


@numba.njit(inline="always")
def mixed(key: Any, row: Any) -> Any:
    """Returns 64 bits, SplitMix64's, that depend on a key and a row's number."""
    bits = key + np.uint64(row) * _STEP
    bits = (bits ^ (bits >> _U30)) * _MIX_1
    bits = (bits ^ (bits >> _U27)) * _MIX_2
    return bits ^ (bits >> _U31)


@numba.njit(inline="always")
def _draw(key: Any, row: Any) -> Any:
    """Returns the row, from 0 to `row`, that `row` is exchanged with."""
    bits = mixed(key, row)
    count = np.uint64(row + 1)  # the high 64 bits of bits * count, for a count below 2^32
    return np.int64(((bits >> _U32) * count + (((bits & _LOW) * count) >> _U32)) >> _U32)


def _permute(words: Any, key: Any) -> None:
    num_rows, num_words = words.shape
    row_bytes = num_words * words.itemsize
    base = words.ctypes.data
    drawn = np.zeros(_AHEAD, np.int64)
    for row in range(num_rows - 1 + _AHEAD, 0, -1):
        slot = row % _AHEAD
        if row < num_rows:
            other = drawn[slot]
            for word in range(num_words):
                words[row, word], words[other, word] = words[other, word], words[row, word]
        if row > _AHEAD:
            drawn[slot] = _draw(key, row - _AHEAD)
            for byte in range(0, row_bytes, 64):
                prefetch(base + drawn[slot] * row_bytes + byte)


@functools.cache
def _compiled(word: Any) -> Callable[..., None]:
    """Returns `_permute` for rows of uint64 or uint32: loaded from numba's cache on disk, or compiled and saved."""
    array = types.Array(types.uint64 if word is np.uint64 else types.uint32, 2, "C")
    return compiled(_permute, types.void(array, types.uint64))
