"""What a run leaves behind while it trains: its directory, its checkpoints, and what its reporters write."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
import tensorflow as tf

import disttrain
from disttrain.checkpoints.store import CheckpointStore
from disttrain.checkpoints.writer import CheckpointWriter
from disttrain.data.sharding import Sharding
from disttrain.option_types import Every
from disttrain.run.announce import announce_stopping
from disttrain.run.console import ConsoleProgress
from disttrain.run.context import RunContext
from disttrain.run.directory import RunDirectory
from disttrain.run.logs import History, MetricsLog
from disttrain.run.opening import Opened
from disttrain.run.resume import best_by
from disttrain.training.checkpointing import Checkpointing, Contents
from disttrain.training.reports import Reporter


def open_directory(context: RunContext, opened: Opened) -> RunDirectory | None:
    """The run's directory, with its configuration in it; None but on the leader."""
    config, world = context.config, context.backend.world
    if not world.is_leader:
        return None
    goes_on = opened.checkpoint is not None and opened.paths.resume_from is None
    directory = RunDirectory(opened.paths.output, overwrite=config.overwrite, goes_on=goes_on)
    if not context.continuity.is_elastic:  # else what was written belongs to the next world too
        context.stack.enter_context(directory)
    resolved = config.model_dump(mode="json") | {"data": opened.data, "output": str(directory.path)}
    versions = {module.__name__: module.__version__ for module in (disttrain, tf, keras, np)}
    directory.write_config(
        {**resolved, "world_size": world.size, "backend": context.backend.name, "versions": versions}
    )
    return directory


def open_checkpointing(context: RunContext, opened: Opened) -> Checkpointing:
    """This worker's part in keeping the run; on the leader the checkpoints that are of no use any more go."""
    config, checkpoint, paths, writer = context.config, opened.checkpoint, opened.paths, None
    every = Every.parse(config.checkpoint_every)
    say_stopping = partial(announce_stopping, context.console)
    stop = context.continuity.stop_signals(context.stack, say_stopping, catches=every is not None)
    if context.backend.world.is_leader:
        store = CheckpointStore(paths.checkpoints, keep=config.keep, best_by=best_by(config))
        context.stack.enter_context(store)
        if config.overwrite or (checkpoint is not None and paths.resume_from is None):
            store.remove_after(checkpoint.position if checkpoint is not None else None)
        if every is not None:
            writer = CheckpointWriter(store, lambda why: context.console.print(f"A checkpoint was not written: {why}"))
            context.stack.enter_context(writer)
    return Checkpointing(every or Every(), writer, stop, context.continuity.commits)


def open_reporters(
    context: RunContext, opened: Opened, directory: RunDirectory | None, sharding: Sharding
) -> list[Reporter]:
    """What hears of the training: nothing but on the leader."""
    if directory is None:
        return []
    earlier = Contents.of(opened.checkpoint).progress.results if opened.checkpoint is not None else ()
    console = ConsoleProgress(
        context.console, epochs=context.config.epochs, num_steps=sharding.num_steps, num_rows=sharding.num_rows
    )
    return [console, History(directory.path, earlier), MetricsLog(directory.path)]
