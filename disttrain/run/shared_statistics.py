"""A file's statistics, and its index where that is not kept yet: made by all workers together, in one pass."""

from __future__ import annotations

from disttrain.data.csv.kept_statistics import Indexed, StatisticsOf, statistics_of
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.distributed.backend import together
from disttrain.run.column_options import requests_of
from disttrain.run.context import RunContext
from disttrain.run.shared_index import check_same_size, shared_index
from disttrain.threads import num_cores


def shared_statistics(context: RunContext, opened: OpenCsv) -> Indexed:
    """Loads index and statistics if every worker has both, else makes them together; a collective.

    One worker a machine keeps them.

    Raises:
        DataError: for a line that is no row; if the workers see files of different sizes.
    """
    backend, cache_dir = context.backend, context.cache_dir
    world = backend.world
    check_same_size(backend, opened.text)

    def obtain(wanted: StatisticsOf) -> Indexed:
        kept = together(backend, lambda: wanted.load(cache_dir))
        if all(backend.gather(kept is not None)) and kept is not None:
            return kept
        threads = num_cores(world.local_size)
        index = shared_index(backend, opened.text, cache_dir) if wanted.takes_two_passes else None
        everyones = backend.gather(together(backend, lambda: wanted.gather(world.rank, world.size, threads, index)))
        found = together(backend, lambda: wanted.join(everyones, index))
        if world.local_rank == 0:
            wanted.keep(cache_dir, found)
        return found

    return statistics_of(opened, requests_of(context.config, opened.target_names), obtain)
