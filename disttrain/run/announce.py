"""What a run says to its user: each sentence once, on the leader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from disttrain.checkpoints.file import Position
from disttrain.data.csv.columns import remarks
from disttrain.errors import listed
from disttrain.run.console import show_number, show_rate, show_values
from disttrain.run.resume import show_position
from disttrain.training.constant import Constant
from disttrain.training.metric_sums import Value
from disttrain.training.progress import EpochResult
from disttrain.training.reports import Regrouped, Reporter
from disttrain.training.tasks import task_of

if TYPE_CHECKING:
    from disttrain.checkpoints.commits import Change
    from disttrain.data.csv.source import Source
    from disttrain.data.sharding import Sharding
    from disttrain.distributed.backend import Backend, World
    from disttrain.run.context import RunContext

MAX_COLUMNS_SHOWN = 8
MAX_LABELS_SHOWN = 5


def announce_start(
    context: RunContext, data: str, source: Source, sharding: Sharding, position: Position | None
) -> None:
    """Says what the run trains on, with which workers, and from which position it goes on, if it does."""
    console, config = context.console, context.config
    finds = config.delimiter == "auto"
    for remark in remarks(source.header, config.header, config.features, source.target_names, finds_delimiter=finds):
        console.print(remark)
    features, targets = _columns(source.feature_names), _columns(source.target_names)
    files = f" in {len(source.files):,} files" if len(source.files) > 1 else ""
    console.print(f"{data}: {source.num_rows:,} rows{files}, {features} -> {targets}")
    if sharding.num_rows < source.num_rows:
        first = min(config.limit or source.num_rows, source.num_rows)
        of_which = f" of the first {first:,} (--limit)" if config.limit else ""
        rest = f"; {first - sharding.num_rows:,} are held out (--validation-split)" if config.validation_split else ""
        console.print(f"Training on {sharding.num_rows:,} rows{of_which}{rest}")
    _announce_world(console, context.backend, sharding)
    if (task := task_of(config, source.table)) != "regression":
        console.print(_task_said(task, config.loss, source))
    if config.decay == "cosine":
        console.print(f"The learning rate falls to 0 over {config.epochs} epochs (--decay none keeps it)")
    if position is not None:
        console.print(f"Going on from the checkpoint of {show_position(position)}")


def _task_said(task: str, loss: str, source: Source) -> str:
    labels = source.table.targets[0].categories if source.table is not None else ()
    held = f"'{source.target_names[0]}' holds {len(labels):,} labels: " if labels else ""
    if 0 < len(labels) <= MAX_LABELS_SHOWN:
        held = f"{held[:-2]} ({', '.join(labels)}): "
    return f"{held}{task} classification by {loss}"


def _announce_world(console: Console, backend: Backend, sharding: Sharding) -> None:
    """Says how many workers there are, and what they do in a step."""
    world = backend.world
    workers = f"{world.size} workers" if world.size > 1 else "1 worker"
    if world.num_devices > 1:
        workers += f" of {world.num_devices} devices"
    named = f"{backend.name} backend" + (f" ({backend.detail})" if backend.detail else "")
    console.print(
        f"{named}, {workers}, {sharding.num_shards} x {sharding.batch_size:,} rows a step, "
        f"{sharding.num_steps:,} steps an epoch"
    )
    idle = world.num_replicas - sharding.num_shards
    if idle > 0:
        console.print(f"{idle} {kind_of_replicas(world)} have no shard: there are {sharding.num_shards}")


def announce_change(
    context: RunContext, change: Change, position: Position | None, reporters: Sequence[Reporter]
) -> None:
    """Tells the user and all reporters why the world is another than before."""
    size = context.backend.world.size
    context.console.print(change.news(size, position))
    at = position or Position(1, 0)
    for reporter in reporters:
        reporter.report(Regrouped(change.why(size), size, change.num_before, at.epoch, at.step, change.seconds))


def announce_stopping(console: Console, signal_name: str) -> None:
    """Says that a signal was heard."""
    console.print(f"{signal_name}: stopping at the end of this superstep, with a checkpoint; Ctrl-C ends at once")


def announce_result(
    console: Console, results: Sequence[EpochResult], constant: Constant | None, model_path: Path
) -> None:
    """Says what losses and metrics the run reached, and where the model is."""
    rate = sum(result.rows for result in results) / sum(result.seconds for result in results)
    beside = f" (best constant answer: {show_number(constant.loss)})" if constant is not None else ""
    values: Mapping[str, Value] = results[-1].values
    loss, *others = (show_values({name: value}) for name, value in values.items())
    console.print(f"Done: {' · '.join([loss + beside, *others, show_rate(rate)])}")
    console.print(f"Model: {model_path}")


def kind_of_replicas(world: World) -> str:
    """Returns what a message calls those that shards are given to."""
    return "devices" if world.num_devices > 1 else "workers"


def _columns(names: Sequence[str]) -> str:
    return listed(names, MAX_COLUMNS_SHOWN) + (f" ({len(names)} in all)" if len(names) > MAX_COLUMNS_SHOWN else "")
