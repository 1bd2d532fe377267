"""A file's index made by all workers together: each counts its part of the bytes, then they exchange the counts."""

from __future__ import annotations

from pathlib import Path

from disttrain.data.csv.header import Header
from disttrain.data.csv.index import (
    Counts,
    Index,
    index_from_counts,
    join_counts,
    keep_index,
    load_index,
    num_chunks,
    scan,
)
from disttrain.data.sharding import shard_range
from disttrain.distributed.backend import Backend, together
from disttrain.errors import DataError
from disttrain.storage.base import Reader
from disttrain.threads import num_cores


def shared_index(backend: Backend, reader: Reader, header: Header, cache_dir: Path) -> Index:
    """Loads the index if every worker has it, else makes it together, and one worker a machine keeps it. A collective.

    Raises:
        DataError: if the workers see files of different sizes under the one name.
    """
    world = backend.world
    check_same_size(backend, reader)
    kept = together(backend, lambda: load_index(cache_dir, reader.info, header))
    if all(backend.gather(kept is not None)) and kept is not None:
        return kept
    part = shard_range(num_chunks(reader.info, header), world.size, world.rank)
    num_threads = num_cores(world.local_size)
    counts = together(backend, lambda: scan(reader, header, part.start, part.stop, num_threads=num_threads))
    tables = backend.gather(counts.table)

    def join() -> Index:
        index = index_from_counts(reader, header, join_counts([Counts(table) for table in tables]))
        if world.local_rank == 0:
            keep_index(cache_dir, reader.info, header, index)
        return index

    return together(backend, join)


def check_same_size(backend: Backend, reader: Reader) -> None:
    """Raises DataError if the workers see files of different sizes under the one name; a collective."""
    sizes = backend.gather(reader.info.size_bytes)

    def check() -> None:
        if len(set(sizes)) > 1:
            shown = ", ".join(f"rank {rank}: {size:,} bytes" for rank, size in enumerate(sizes))
            raise DataError(
                f"{reader.info.url}: the workers see different files ({shown}); give all of them the same one"
            )

    together(backend, check)
