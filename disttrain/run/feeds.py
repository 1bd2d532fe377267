"""What feeds a worker with rows: the plan of its epochs, and the cache of its machine."""

from __future__ import annotations

from disttrain.data.cache_eviction import show_bytes
from disttrain.data.epoch import EpochPlan, steps_per_superbatch
from disttrain.data.ranges import Range
from disttrain.data.row_cache import RowCache, open_cache
from disttrain.data.row_source import RowSource
from disttrain.data.sharding import Sharding, shard_range, shards_of_rank
from disttrain.data.shuffle import EpochOrder
from disttrain.data.superbatches import Feed
from disttrain.distributed.backend import World
from disttrain.run.context import RunContext
from disttrain.threads import num_cores


def open_feed(context: RunContext, source: RowSource, num_shards: int, order: EpochOrder) -> Feed:
    """Plans the epochs of this worker's shards, in this order, and opens its cache."""
    config, world = context.config, context.backend.world
    most_held = len(shards_of_rank(num_shards, world.size, 0))
    steps = steps_per_superbatch(
        source.num_columns, most_held, config.batch_size, config.steps_per_execution, multiple=config.sync_every
    )
    plan = EpochPlan(
        Sharding(source.num_rows, num_shards, config.batch_size),
        shards_of_rank(num_shards, world.size, world.rank),
        steps,
        order,
        num_replicas=world.num_devices,
    )
    return Feed(source, plan, _open_cache(context, source, num_shards, order), num_cores(world.local_size))


def _open_cache(context: RunContext, source: RowSource, num_shards: int, order: EpochOrder) -> RowCache | None:
    config, world = context.config, context.backend.world
    if config.cache is None:
        return None
    everything = Range(0, source.num_rows)
    planned = everything if order.mode == "global" else machine_rows(world, source.num_rows, num_shards)
    cache = open_cache(
        config.cache,
        source,
        limit_bytes=config.cache_limit,
        planned=planned,
        warns=world.local_rank == 0,
    )
    if cache is not None:
        context.stack.enter_context(cache)
        there = sum(len(rows) for rows, is_there in cache.split(planned) if is_there)
        context.console.print(
            f"Cache {cache.path}: {show_bytes(len(planned) * source.num_columns * 4)} for {len(planned):,} rows, "
            f"of which {there:,} are cached"
        )
    return cache


def machine_rows(world: World, num_rows: int, num_shards: int) -> Range:
    """Returns the rows of all shards that the workers of this machine hold, whose ranks follow each other."""
    first = world.rank - world.local_rank
    last = min(first + world.local_size, world.size) - 1
    shards = range(
        shards_of_rank(num_shards, world.size, first).start, shards_of_rank(num_shards, world.size, last).stop
    )
    if not shards:
        return Range(0, 0)
    return Range(shard_range(num_rows, num_shards, shards[0]).start, shard_range(num_rows, num_shards, shards[-1]).stop)
