"""One run in one world, from the first look at its files to what came of it."""

from __future__ import annotations

from dataclasses import replace

import keras

from disttrain.activity import activity
from disttrain.checkpoints.record import RunRecord
from disttrain.distributed.backend import together
from disttrain.errors import Stopped
from disttrain.run.announce import announce_change, announce_result, announce_start
from disttrain.run.assembly import Assembled, assemble
from disttrain.run.column_options import with_settings
from disttrain.run.context import RunContext
from disttrain.run.identity import new_learning_rate, record_of
from disttrain.run.opening import Opened, open_run
from disttrain.run.preparation import Prepared, prepare
from disttrain.run.publishing import publish
from disttrain.run.resume import check_same_run, how_to_go_on, is_finished
from disttrain.training.progress import EpochResult

LAST_CHECKPOINT_S = 300.0  # how long a stopped run waits for its last checkpoint


def train(context: RunContext) -> None:
    """Trains and leaves the model behind; all workers call it together.

    Raises:
        DisttrainError: on the worker that failed; PeerError on the others.
        Stopped: where a signal ended the run early; its checkpoint is written.
        WorldChanged: where an elastic run is to go on in another world.
    """
    opened = open_run(context)
    source, steps = opened.training, opened.num_steps(context.config.batch_size)
    config = with_settings(context.config, source.table, len(source.target_names), steps)
    context = replace(context, config=config)
    prepared = prepare(context, opened)
    record = record_of(context.config, prepared.training, opened.validation, prepared.engine.model, opened.paths)
    if _is_finished(context, opened, record):
        context.console.print(f"{opened.paths.output}: already trained; --epochs adds epochs, --overwrite starts over")
        together(context.backend, lambda: _publish(context, opened))
        return
    assembled = assemble(context, opened, prepared, record)
    _compile_and_announce(context, opened, prepared, assembled)
    results = _run(context, opened, prepared.engine.model, assembled)
    # All wait for the leader: an elastic run ends with the first worker that ends.
    together(context.backend, lambda: _finish(context, results, prepared, assembled))
    together(context.backend, lambda: _publish(context, opened))


def _is_finished(context: RunContext, opened: Opened, record: RunRecord) -> bool:
    """Tells whether the run of a checkpoint, which must be this one, has nothing left to do."""
    backend, checkpoint = context.backend, opened.checkpoint
    if checkpoint is None:
        return False
    together(backend, lambda: check_same_run(opened.paths, checkpoint, record))
    # After a change the model is written in any case: one that is there may be that of an earlier run.
    if context.continuity.last_commit is not None:
        return False
    return bool(backend.gather(is_finished(opened.paths, checkpoint, context.config.epochs))[0])


def _compile_and_announce(context: RunContext, opened: Opened, prepared: Prepared, assembled: Assembled) -> None:
    """Compiles the supersteps, and says what the run is about to do or, after a change, why it goes on."""
    change, position = context.continuity.change, opened.checkpoint.position if opened.checkpoint else None
    if change is None:
        announce_start(context, opened.data, opened.source, prepared.training.sharding, position)
    seconds = assembled.trainer.compile()
    if change is None:
        context.console.print(f"Compiled the superstep in {seconds:.1f} s")
    else:
        announce_change(context, change, position, assembled.reporters)


def _run(context: RunContext, opened: Opened, model: keras.Model, assembled: Assembled) -> list[EpochResult]:
    """Trains all epochs; where the run is stopped, says how it goes on."""
    config = context.config
    learning_rate = new_learning_rate(config, model, opened.num_shards, opened.resumed)
    try:
        return assembled.trainer.run(config.epochs, opened.checkpoint, learning_rate=learning_rate)
    except Stopped as stopped:
        context.continuity.leave_or_regroup(context.backend)
        # All workers stay until the leader's last checkpoint is written: a launcher ends a run with its first worker.
        together(context.backend, lambda: _write_last_checkpoint(assembled))
        raise Stopped(f"{stopped}; {how_to_go_on(opened.paths, config)}") from stopped
    finally:
        for reporter in assembled.reporters:
            reporter.close()


def _write_last_checkpoint(assembled: Assembled) -> None:
    with activity("writing the last checkpoint"):
        assembled.checkpointing.wait(LAST_CHECKPOINT_S)


def _finish(context: RunContext, results: list[EpochResult], prepared: Prepared, assembled: Assembled) -> None:
    """Writes the model, on the leader, and says what losses and metrics the run reached."""
    if assembled.directory is None:
        return
    with activity("writing the model"):
        model_path = assembled.directory.write_model(prepared.saved, prepared.description)
    announce_result(context.console, results, assembled.findings.constant, model_path)


def _publish(context: RunContext, opened: Opened) -> None:
    """Copies the results, on the leader, to where they are to be published."""
    url = context.config.publish
    if url is not None and context.backend.world.is_leader:
        publish(opened.paths.output, url)
        context.console.print(f"Published the results in {url}")
