"""A dataset's index made by all workers together: each counts its part of the chunks, then they exchange the counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from disttrain.data.csv.index import Index, index_from_counts, join_counts, scan
from disttrain.data.csv.kept_index import keep_counts, load_counts
from disttrain.data.csv.text import CsvText
from disttrain.data.sharding import shard_range
from disttrain.distributed.backend import Backend, together
from disttrain.errors import DataError
from disttrain.threads import num_cores


def shared_index(backend: Backend, text: CsvText, cache_dir: Path) -> Index:
    """Returns the index; what some worker does not have is made together, and one worker a machine keeps it.

    A collective.

    Raises:
        DataError: if the workers see files of different sizes under one name.
    """
    world = backend.world
    check_same_size(backend, text)
    kept = together(backend, lambda: load_counts(cache_dir, text))
    missing = np.unique(np.concatenate(backend.gather(kept.missing)))
    if not len(missing):
        return index_from_counts(text, kept.counts)
    part = shard_range(len(missing), world.size, world.rank)
    num_threads = num_cores(world.local_size)
    counts = together(backend, lambda: scan(text, missing[part.start : part.stop], num_threads=num_threads))
    everyones = backend.gather(counts)

    def join() -> Index:
        text.check_unchanged()
        counts = kept.completed(text, missing, join_counts(everyones))
        if world.local_rank == 0:
            keep_counts(cache_dir, text, counts)
        return index_from_counts(text, counts)

    return together(backend, join)


def check_same_size(backend: Backend, text: CsvText) -> None:
    """Raises DataError if the workers see files of different sizes under one name; a collective."""
    sizes = backend.gather([file.info.size_bytes for file in text.files])

    def check() -> None:
        for number, found in enumerate(zip(*sizes, strict=False)):
            if len(set(found)) > 1:
                shown = ", ".join(f"rank {rank}: {size:,} bytes" for rank, size in enumerate(found))
                raise DataError(
                    f"{text.files[number].info.url}: the workers see different files ({shown}); give all of them the "
                    "same one"
                )

    together(backend, check)
