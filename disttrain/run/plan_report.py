"""Prints what `disttrain plan` and `disttrain simulate` found, for people and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as Grid

from disttrain.data.cache_eviction import show_bytes
from disttrain.errors import redacted
from disttrain.run.console import show_rate, show_time

if TYPE_CHECKING:
    from disttrain.config import PlanConfig
    from disttrain.data.read_simulation import Simulated
    from disttrain.run.planning import Plan
    from disttrain.run.trial import Measured

WIDTH = 140  # where there is no terminal
SHOWN = 12  # workers in the table; --json has all


def report(config: PlanConfig, plan: Plan, measured: Measured | None) -> None:
    """Prints a plan, with what was measured of the training's steps unless the rate was given."""
    if config.json_:
        print(json.dumps(as_json(config, plan, measured), indent=2))
        return
    console = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH)
    for line in _head(config, plan):
        console.print(line)
    console.print(_table(plan))
    for line in (*_reading(config, plan), *_time(config, plan, measured)):
        console.print(line)


def _head(config: PlanConfig, plan: Plan) -> Iterator[str]:
    sharding, about = plan.sharding, "about " if config.validation_split else ""  # the rows are drawn
    files = "1 file" if plan.num_files == 1 else f"{plan.num_files:,} files"
    yield f"{redacted(plan.label)}: {files}, {about}{sharding.num_rows:,} rows, {show_bytes(plan.size_bytes)}"
    yield (
        f"{plan.world_size:,} workers, {sharding.num_shards:,} shards, global batch "
        f"{sharding.num_shards * sharding.batch_size:,}: {about}{sharding.num_steps:,} steps an epoch"
    )


def _table(plan: Plan) -> Grid:
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for title in ("rank", "shards", "rows", "from byte", "to byte", "bytes", "files", "reads", "requests"):
        grid.add_column(title, justify="right")
    ranks = list(range(plan.world_size))
    if len(ranks) > SHOWN:
        ranks = [*ranks[: SHOWN // 2], -1, *ranks[-SHOWN // 2 :]]
    for rank in ranks:
        grid.add_row(*(["…"] * 9 if rank < 0 else _cells(plan, rank)))
    return grid


def _cells(plan: Plan, rank: int) -> list[str]:
    reads = plan.reads
    is_drawn = reads.starts[rank] < 0
    span = ["drawn anew", "each epoch"] if is_drawn else [f"{reads.starts[rank]:,}", f"{reads.stops[rank]:,}"]
    return [
        f"{rank:,}",
        f"{reads.shards[rank]:,}",
        f"{reads.rows[rank]:,}",
        *span,
        show_bytes(int(reads.num_bytes[rank])),
        "any" if is_drawn else f"{reads.files[rank]:,}",
        f"{reads.blocks[rank]:,}",
        f"{reads.requests[rank]:,}",
    ]


def _reading(config: PlanConfig, plan: Plan) -> Iterator[str]:
    reads, ahead = plan.reads, plan.ahead
    yield (
        f"Each worker reads blocks of up to {show_bytes(ahead.block_bytes)}, {ahead.num_ahead} of each shard ahead; "
        f"buffers and index take {show_bytes(plan.buffer_bytes)} of its memory"
    )
    if not plan.is_remote:
        return
    total = int(reads.requests.sum())
    cost = f", for {total / 1000 * config.request_price:,.4g}" if config.request_price is not None else ""
    yield (
        f"An epoch takes {total:,} requests{cost}; before the first one, everything is read once for the index, which "
        "is kept"
    )


def _rate(config: PlanConfig, measured: Measured | None) -> float:
    """Returns the rows per second of a worker: as they were given or, if not, measured."""
    return config.rate or (measured.rows_per_s if measured is not None else 0.0)


def _time(config: PlanConfig, plan: Plan, measured: Measured | None) -> Iterator[str]:
    rate = _rate(config, measured)
    if measured is not None:
        yield (
            f"Measured: {measured.steps:,} steps of one worker here at {show_rate(measured.rows_per_s)}, "
            f"{show_bytes(measured.memory_bytes)} of memory in all"
        )
    seconds = plan.epoch_s(rate)
    yield (
        f"At {show_rate(rate)} a worker an epoch takes {_show_seconds(seconds)}, {config.epochs} epochs "
        f"{_show_seconds(seconds * config.epochs)}, not counting what the workers' exchange and "
        "validation take"
    )


def _show_seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else show_time(seconds)


def as_json(config: PlanConfig, plan: Plan, measured: Measured | None) -> dict[str, Any]:
    """Returns a plan as plain data: the workers' numbers by rank."""
    rate = _rate(config, measured)
    requests = int(plan.reads.requests.sum())
    return {
        "data": redacted(plan.label),
        "files": plan.num_files,
        "rows": plan.sharding.num_rows,
        "bytes": plan.size_bytes,
        "world_size": plan.world_size,
        "num_shards": plan.sharding.num_shards,
        "global_batch": plan.sharding.num_shards * plan.sharding.batch_size,
        "steps": plan.sharding.num_steps,
        "block_bytes": plan.ahead.block_bytes,
        "buffer_bytes": plan.buffer_bytes,
        "requests": requests,
        "requests_cost": None if config.request_price is None else requests / 1000 * config.request_price,
        "rows_per_s": rate,
        "measured_steps": None if measured is None else measured.steps,
        "memory_bytes": None if measured is None else measured.memory_bytes,
        "epoch_s": plan.epoch_s(rate),
        "workers": {name: values.tolist() for name, values in vars(plan.reads).items()},
    }


def tell_simulation(config: PlanConfig, plan: Plan, rate: float, found: Simulated) -> None:
    """Prints what came of a simulated epoch."""
    for line in _head(config, plan):
        print(line)
    print(
        f"The epoch takes {_show_seconds(found.seconds)}; of these the training waits {_show_seconds(found.waited_s)}"
    )
    print(
        f"At {show_rate(rate)} a worker, training alone takes {_show_seconds(plan.epoch_s(rate))}; "
        f"{100 * found.used:.0f}% of the store's bandwidth are used, so that {_limit(found)}"
    )
    if found.simulated < 1:
        print(f"Simulated: the first {100 * found.simulated:.2g}% of the epoch; the rest is taken to go on alike")


def _limit(found: Simulated) -> str:
    if found.waited_s < 0.1 * found.seconds:
        return "the training's speed limits it"
    if found.used > 0.8:
        return "the store's bandwidth limits it"
    return "the latency, or the bandwidth of one worker, limits it"


def simulation_as_json(plan: Plan, rate: float, found: Simulated) -> dict[str, Any]:
    """Returns what came of a simulated epoch as plain data."""
    told = {"rows_per_s": rate, "training_s": plan.epoch_s(rate), "limit": _limit(found)}
    return {"data": redacted(plan.label), "world_size": plan.world_size, **vars(found), **told}
