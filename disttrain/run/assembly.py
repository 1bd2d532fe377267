"""Puts together what trains a run: the trainer, and what it tells, keeps and looks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from disttrain.distributed.backend import together
from disttrain.run.bad_rows import BadRowsFile
from disttrain.run.keeping import open_checkpointing, open_directory, open_reporters
from disttrain.run.publishing import begin_publishing
from disttrain.training.callbacks import build_callbacks
from disttrain.training.checkpointing import Checkpointing
from disttrain.training.evaluator import Evaluator
from disttrain.training.findings import Findings, open_findings
from disttrain.training.snapshots import Snapshots
from disttrain.training.tallies import Tallies
from disttrain.training.trainer import Trainer

if TYPE_CHECKING:
    from disttrain.checkpoints.record import RunRecord
    from disttrain.data.bad_rows import BadRowsFound
    from disttrain.run.context import RunContext
    from disttrain.run.directory import RunDirectory
    from disttrain.run.opening import Opened
    from disttrain.run.preparation import Prepared
    from disttrain.training.reports import Reporter


@dataclass(frozen=True)
class Assembled:
    """The trainer of a run and what it works with; only the leader has a directory and reporters."""

    trainer: Trainer
    checkpointing: Checkpointing
    directory: RunDirectory | None
    reporters: list[Reporter]
    findings: Findings


def assemble(context: RunContext, opened: Opened, prepared: Prepared, record: RunRecord) -> Assembled:
    """Makes all of it; a collective."""
    config, backend = context.config, context.backend
    engine, training, validation = prepared.engine, prepared.training, prepared.validation
    num_steps = training.sharding.num_steps
    callbacks = together(
        backend, lambda: build_callbacks(config.callbacks, backend.world, engine.model, config.epochs, num_steps)
    )
    directory = together(backend, lambda: open_directory(context, opened))
    together(backend, lambda: begin_publishing(directory, config.publish))
    checkpointing = together(backend, lambda: open_checkpointing(context, opened))
    reporters = open_reporters(context, opened, directory, training.sharding)
    say = context.console.print
    sources = [source for source in (opened.training, opened.validation) if source is not None]
    tallies = Tallies(backend, sources, _bad_rows_told(directory, say), reporters)
    findings = open_findings(
        engine.model,
        engine.inputs,
        backend,
        opened.training,
        opened.validation,
        say,
        context.cache_dir,
        tallies,
        asks_for_task=config.task == "auto",
    )
    snapshots = Snapshots(engine, backend, callbacks, checkpointing, record, say)
    evaluator = Evaluator(engine, backend, validation, callbacks) if validation is not None else None
    trainer = Trainer(
        engine, backend, training, callbacks, checkpointing, snapshots, evaluator=evaluator, findings=findings,
        reporters=reporters, skips_nonfinite=config.on_nonfinite == "skip",
    )  # fmt: skip
    return Assembled(trainer, checkpointing, directory, reporters, findings)


def _bad_rows_told(
    directory: RunDirectory | None, say: Callable[[str], None]
) -> Callable[[Sequence[BadRowsFound]], None]:
    """Returns what tells of bad rows, on the leader, which has a directory."""
    if directory is None:
        return lambda found: None
    return BadRowsFile(directory.path, say).tell
