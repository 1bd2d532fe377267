"""The order of an epoch's rows: integers and seeds in, row ranges and in-place permutations out.

An epoch's order is made in two steps. The blocks of the index (the rows that start in one MiB of the file, which are
read with one read and without a search) are permuted; then a shard's blocks are taken some at a time, and the rows of
these, a window, are permuted. Both depend on (file, columns, num_shards, seed, epoch) alone, and a window on no other
window, so that a run can begin anywhere in an epoch, on any world size.
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

# What the windows of all shards take together, as float32. Where every column is used, a number takes about 2.5 times
# as much text, so that some 80 blocks lie in the windows and in each global batch: over a sorted file, the batches'
# means stray by 1 / sqrt(12 x 80), 3% of the file's range, which a batch of 250 rows does by 2% anyway.
WINDOW_BYTES = 32 << 20
MIN_WINDOW_BLOCKS = 4  # even where many shards share the windows' bytes

_AHEAD = 32  # rows that are fetched from memory before they are exchanged: 12 to 4 ns a two-column row
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_STEP, _MIX_1, _MIX_2 = np.uint64(_GOLDEN), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_U27, _U30, _U31, _U32, _LOW = (np.uint64(n) for n in (27, 30, 31, 32, 0xFFFFFFFF))

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochOrder:
    """Which order an epoch's rows have.

    `none`: the file's. `shard`: each shard's own rows, permuted. `global`: the blocks are dealt to all shards anew in
    each epoch. Only `global` helps where the file is sorted: in the other two, a shard always has the same rows.
    """

    mode: ShuffleMode = "none"
    seed: int = 0
    epoch: int = 1


FILE_ORDER = EpochOrder()


@dataclass(frozen=True)
class Window:
    """Rows that are permuted together: those of `ranges`, one range after the other, by the permutation of `key`.

    `first_row` is the number of its first row in the shard's order.
    """

    ranges: tuple[Range, ...]
    key: int
    first_row: int
    num_rows: int


def block_bounds(first_rows: Int64s, num_rows: int) -> Int64s:
    """Where blocks begin and end, int64 [num_blocks + 1], from the first rows of the index's chunks; none is empty."""
    bounds: Int64s = np.unique(np.append(first_rows, num_rows))
    return bounds


def window_blocks(bounds: Int64s, num_shards: int, num_columns: int) -> int:
    """Blocks of a window: as many of the longest as fit into a shard's part of `WINDOW_BYTES`.

    A block has at most 2 MiB (a number takes two bytes of text at least), so that the least number of blocks is small.
    """
    longest_bytes = int(np.diff(bounds).max()) * num_columns * 4
    return max(WINDOW_BYTES // num_shards // longest_bytes, MIN_WINDOW_BLOCKS)


def shard_blocks(order: EpochOrder, bounds: Int64s, num_shards: int, shard: int) -> Int64s:
    """The row ranges of a shard's part of the epoch's order, int64 [num_ranges, 2]: blocks, the cut ones shorter."""
    rows = shard_range(int(bounds[-1]), num_shards, shard)
    blocks = np.stack([bounds[:-1], bounds[1:]], 1)  # [num_blocks, 2]
    if order.mode == "global":
        blocks = blocks[permutation(len(blocks), _key(order.seed, order.epoch))]
    stops = np.cumsum(blocks[:, 1] - blocks[:, 0])  # in the epoch's order, in the file's unless it is global
    cut_left = np.maximum(rows.start - (stops - blocks[:, 1] + blocks[:, 0]), 0)
    cut_right = np.maximum(stops - rows.stop, 0)
    blocks = blocks + np.stack([cut_left, -cut_right], 1)
    blocks = np.compress(blocks[:, 0] < blocks[:, 1], blocks, axis=0)
    if order.mode == "shard":
        blocks = blocks[permutation(len(blocks), _key(order.seed, order.epoch, shard))]
    return blocks


def shard_windows(
    order: EpochOrder, bounds: Int64s, num_shards: int, shard: int, blocks_per_window: int, first_row: int = 0
) -> Iterator[Window]:
    """A shard's part of the epoch's order, from the window on that holds row `first_row` of it (counted from 0)."""
    assert order.mode != "none", "the file's order has no windows"
    blocks = shard_blocks(order, bounds, num_shards, shard)
    start = 0
    for number, first in enumerate(range(0, len(blocks), blocks_per_window)):
        part = blocks[first : first + blocks_per_window]
        num_rows = int(np.sum(part[:, 1] - part[:, 0]))
        if start + num_rows > first_row:
            ranges = tuple(Range(*block) for block in part.tolist())
            yield Window(ranges, _key(order.seed, order.epoch, shard, number), start, num_rows)
        start += num_rows


def permutation(length: int, key: int) -> Int64s:
    """The numbers below `length` in the order of `key`."""
    numbers = np.arange(length, dtype=np.int64)
    permute_rows(numbers[:, np.newaxis], key)
    return numbers


def permute_rows(rows: npt.NDArray[Any], key: int) -> None:
    """Permute the rows of a C-contiguous array `[rows, columns]` in place, as `key` says. Other threads run meanwhile.

    Fisher and Yates's shuffle. The same key gives the same permutation, whatever the columns. Numbers are drawn as
    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) and brought into range by multiplication, with a bias below
    rows / 2^64.
    """
    assert rows.flags.c_contiguous
    assert rows.dtype.itemsize % 4 == 0, "a row is whole 32-bit words"
    if len(rows) < 2:
        return
    word = np.uint64 if rows[0].nbytes % 8 == 0 else np.uint32
    _compiled(word)(rows.reshape(-1).view(word).reshape(len(rows), -1), np.uint64(key))


def compile_permutation() -> None:
    """Compile the permutation of rows of any width, or load it from numba's cache on disk."""
    _compiled(np.uint64)
    _compiled(np.uint32)


def _key(*words: int) -> int:
    """64 bits that all words have a part in."""
    key = 0
    for word in words:
        key = (key ^ word) + _GOLDEN & _MASK
        key = (key ^ key >> 30) * int(_MIX_1) & _MASK
        key = (key ^ key >> 27) * int(_MIX_2) & _MASK
        key ^= key >> 31
    return key


@numba.njit(inline="always")
def _draw(key: Any, row: Any) -> Any:
    """The row from 0 to `row` that `row` is exchanged with."""
    bits = key + np.uint64(row) * _STEP
    bits = (bits ^ (bits >> _U30)) * _MIX_1
    bits = (bits ^ (bits >> _U27)) * _MIX_2
    bits ^= bits >> _U31
    count = np.uint64(row + 1)  # the high 64 bits of bits * count, for a count below 2^32
    return np.int64(((bits >> _U32) * count + (((bits & _LOW) * count) >> _U32)) >> _U32)


def _permute(words: Any, key: Any) -> None:
    num_rows, num_words = words.shape
    row_bytes = num_words * words.itemsize
    base = words.ctypes.data
    drawn = np.zeros(_AHEAD, np.int64)
    for row in range(num_rows - 1 + _AHEAD, 0, -1):
        place = row % _AHEAD
        if row < num_rows:
            other = drawn[place]
            for word in range(num_words):
                words[row, word], words[other, word] = words[other, word], words[row, word]
        if row > _AHEAD:
            drawn[place] = _draw(key, row - _AHEAD)
            for byte in range(0, row_bytes, 64):
                prefetch(base + drawn[place] * row_bytes + byte)


@functools.cache
def _compiled(word: Any) -> Callable[..., None]:
    """`_permute` for rows of uint64 or uint32, loaded from numba's cache on disk or compiled and put there."""
    array = types.Array(types.uint64 if word is np.uint64 else types.uint32, 2, "C")
    return compiled(_permute, types.void(array, types.uint64))
