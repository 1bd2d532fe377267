"""What every worker of a world reads in an epoch, without reading it: rows, bytes, files, requests.

All of it is arithmetic over the index. Where a row begins is known to a chunk of the index (1 MiB), and in between
taken as if the chunk's rows were equally long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from disttrain.data.sharding import Sharding, shard_bounds
from disttrain.data.shuffle import ShuffleMode

READ_AHEAD_BYTES = 32 << 20  # what the read-ahead of all held shards may take together
MIN_BLOCK_BYTES = 64 << 10  # smaller reads cost more in calls than they save in memory
MAX_READ_THREADS = 8

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReadAhead:
    """How a worker reads: blocks of up to `block_bytes`, `num_ahead` of each shard while one is used, by `threads`."""

    block_bytes: int
    num_ahead: int
    threads: int

    @classmethod
    def of(cls, block_bytes: int, max_block_bytes: int, num_shards: int, mode: ShuffleMode) -> ReadAhead:
        """Returns what suits a worker's shards.

        Args:
            block_bytes: what one read of the source should ask for.
            max_block_bytes: of a block that is found with a single read.
            num_shards: that the worker holds.
            mode: the order of the rows; other than the file's it takes short reads, but as many bytes at a time.
        """
        num_shards = max(num_shards, 1)
        size = min(block_bytes, max(READ_AHEAD_BYTES // (2 * num_shards), MIN_BLOCK_BYTES))
        num_ahead = 1
        if mode != "none":
            whole, size = size, min(size, max_block_bytes)
            num_ahead = whole // size
        return cls(size, num_ahead, min(num_shards * num_ahead, MAX_READ_THREADS))


@dataclass(frozen=True, eq=False)
class Extent:
    """Where a dataset's rows lie in its bytes.

    Attributes:
        rows: the first row of each chunk, int64 [chunks].
        offsets: the first byte of that row, int64 [chunks].
        num_rows: of all files.
        size_bytes: of all files.
        file_starts: the first byte of each file, int64 [files].
    """

    rows: Int64s
    offsets: Int64s
    num_rows: int
    size_bytes: int
    file_starts: Int64s

    def offsets_of(self, rows: Int64s) -> Int64s:
        """Returns where rows begin, about; the end for `num_rows`."""
        chunks = np.searchsorted(self.rows, rows, side="right") - 1
        first, offset = self.rows[chunks], self.offsets[chunks]
        after = np.minimum(chunks + 1, len(self.rows) - 1)
        is_last = chunks == len(self.rows) - 1
        next_row = np.where(is_last, self.num_rows, self.rows[after])
        next_offset = np.where(is_last, self.size_bytes, self.offsets[after])
        share = (rows - first) / np.maximum(next_row - first, 1)
        return np.asarray(offset + (share * (next_offset - offset)).astype(np.int64), np.int64)

    def chunks_between(self, starts: Int64s, stops: Int64s) -> Int64s:
        """Returns how many chunks have rows in each range of rows."""
        first = np.searchsorted(self.rows, starts, side="right") - 1
        last = np.searchsorted(self.rows, stops, side="left") - 1
        return np.asarray(np.where(stops > starts, last - first + 1, 0), np.int64)


@dataclass(frozen=True, eq=False)
class Reads:
    """What each worker reads in an epoch: arrays by rank, int64 [world_size].

    Attributes:
        shards: how many it holds.
        rows: of them.
        starts: the first byte that it reads; with the order `global`, -1, as that is drawn anew in every epoch.
        stops: the byte after the last one, likewise.
        num_bytes: that it reads.
        files: of which it reads something, likewise -1.
        blocks: that it reads.
        requests: for these blocks; 0 for local files.
    """

    shards: Int64s
    rows: Int64s
    starts: Int64s
    stops: Int64s
    num_bytes: Int64s
    files: Int64s
    blocks: Int64s
    requests: Int64s


def plan_reads(
    extent: Extent, sharding: Sharding, world_size: int, mode: ShuffleMode, ahead: ReadAhead, piece_bytes: int | None
) -> Reads:
    """Returns what each of `world_size` workers reads; a store is asked for pieces, None stands for local files."""
    shard_starts = shard_bounds(sharding.num_rows, sharding.num_shards)
    held = shard_bounds(sharding.num_shards, world_size)
    row_starts = shard_starts[held[:-1]]
    row_stops = shard_starts[held[1:]]
    starts, stops = extent.offsets_of(row_starts), extent.offsets_of(row_stops)
    num_bytes = np.where(row_stops > row_starts, stops - starts, 0)
    first = np.searchsorted(extent.file_starts, starts, side="right")
    last = np.searchsorted(extent.file_starts, np.maximum(stops - 1, starts), side="right")
    files = np.where(num_bytes > 0, last - first + 1, 0)
    if mode == "none":
        of_shards = extent.offsets_of(shard_starts)
        per_shard = -(-np.diff(of_shards) // ahead.block_bytes)
        blocks = np.diff(np.concatenate([[0], np.cumsum(per_shard)])[held])
    else:
        blocks = extent.chunks_between(row_starts, row_stops)
    pieces = 0 if piece_bytes is None else -(-ahead.block_bytes // piece_bytes)
    at_least = 0 if piece_bytes is None else -(-num_bytes // piece_bytes)
    requests = np.maximum(np.minimum(blocks * pieces, at_least + blocks), 0)
    if piece_bytes is not None:  # a block of several files takes a request for each
        requests = requests + np.maximum(files - 1, 0)
    if mode == "global":
        starts, stops, files = np.full_like(starts, -1), np.full_like(stops, -1), np.full_like(files, -1)
    return Reads(np.diff(held), row_stops - row_starts, starts, stops, num_bytes, files, blocks, requests)
