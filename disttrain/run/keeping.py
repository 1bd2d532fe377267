"""What a run leaves behind while it trains: its directory, its checkpoints, and what its reporters write."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
import tensorflow as tf

import disttrain
from disttrain.checkpoints.store import CheckpointStore
from disttrain.checkpoints.writer import CheckpointWriter
from disttrain.config.option_types import Every
from disttrain.data.sharding import Sharding
from disttrain.run.announce import announce_stopping
from disttrain.run.context import RunContext
from disttrain.run.directory import RunDirectory
from disttrain.run.logs import History, MetricsLog
from disttrain.run.opening import Opened
from disttrain.run.progress_lines import ConsoleProgress
from disttrain.run.resume import best_by
from disttrain.training.checkpointing import Checkpointing
from disttrain.training.reports import Reporter


def open_directory(context: RunContext, opened: Opened) -> RunDirectory | None:
    """Makes the run's directory and writes its configuration, on the leader; returns None on all other workers."""
    config, world = context.config, context.backend.world
    if not world.is_leader:
        return None
    directory = RunDirectory(
        opened.paths.output,
        overwrite=config.overwrite,
        goes_on=opened.continues,
        keeps=bool(opened.earlier_results),
    )
    if not context.continuity.is_elastic:  # else what was written belongs to the next world too
        context.stack.enter_context(directory)
    data = list(config.data) if len(config.data) > 1 else opened.data
    resolved = config.model_dump(mode="json") | {"data": data, "output": str(directory.path)}
    versions = {module.__name__: module.__version__ for module in (disttrain, tf, keras, np)}
    directory.write_config(
        {**resolved, "world_size": world.size, "backend": context.backend.name, "versions": versions}
    )
    return directory


def open_checkpointing(context: RunContext, opened: Opened) -> Checkpointing:
    """Makes this worker's part in checkpointing; the leader removes checkpoints that are of no use any more."""
    config, checkpoint, paths, writer = context.config, opened.checkpoint, opened.paths, None
    every = Every.parse(config.checkpoint_every)
    say_stopping = partial(announce_stopping, context.console)
    stop = context.continuity.stop_signals(context.stack, say_stopping, catches=every is not None)
    if context.backend.world.is_leader:
        store = CheckpointStore(paths.checkpoints, keep=config.keep, best_by=best_by(config))
        context.stack.enter_context(store)
        if config.overwrite or opened.continues:
            store.remove_after(checkpoint.position if checkpoint is not None else None)
        if every is not None:
            writer = CheckpointWriter(store, lambda why: context.console.print(f"A checkpoint was not written: {why}"))
            context.stack.enter_context(writer)
    return Checkpointing(every or Every(), writer, stop, context.continuity.commits)


def open_reporters(
    context: RunContext, opened: Opened, directory: RunDirectory | None, sharding: Sharding
) -> list[Reporter]:
    """Opens what reports the training: the leader's reporters, none on other workers."""
    if directory is None:
        return []
    console = ConsoleProgress(
        context.console, epochs=context.config.epochs, num_steps=sharding.num_steps, num_rows=sharding.num_rows
    )
    return [console, History(directory.path, opened.earlier_results), MetricsLog(directory.path)]
