"""Opens a run: the directory that it writes to, the checkpoint that it goes on from, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from disttrain.checkpoints.commits import RunDefaults
from disttrain.checkpoints.file import Checkpoint
from disttrain.checkpoints.record import RunRecord
from disttrain.data.csv.source import Source
from disttrain.data.selection import Choice, SelectedSource
from disttrain.data.sharding import Sharding
from disttrain.distributed.backend import together
from disttrain.run.directory import default_directory
from disttrain.run.files import Files
from disttrain.run.lock import RunLock
from disttrain.run.resume import RunPaths, check_of_a_run, find_checkpoint
from disttrain.training.checkpointing import Contents

if TYPE_CHECKING:
    from disttrain.config import TrainConfig
    from disttrain.data.row_source import RowSource
    from disttrain.run.context import RunContext
    from disttrain.training.progress import EpochResult


@dataclass(frozen=True)
class Opened:
    """The files of a run, and what it goes on from.

    Attributes:
        data: what messages call the files to train on.
        source: these files; `training` and `validation` are the rows that are used of them, or of others.
        paths: where the run writes, and what it goes on from.
        checkpoint: this, with `resumed`, the record in it.
        num_shards: of the training data.
    """

    data: str
    source: Source
    training: RowSource
    validation: RowSource | None
    paths: RunPaths
    checkpoint: Checkpoint | None
    resumed: RunRecord | None
    num_shards: int

    def num_steps(self, batch_size: int) -> int:
        """Returns the steps of an epoch."""
        return Sharding(self.training.num_rows, self.num_shards, batch_size).num_steps

    @property
    def continues(self) -> bool:
        """Whether the run goes on in its own directory, rather than anew or from another run's checkpoint."""
        return self.checkpoint is not None and self.paths.resume_from is None

    @property
    def earlier_results(self) -> Sequence[EpochResult]:
        """Those of the epochs that earlier processes finished."""
        return Contents.of(self.checkpoint).progress.results if self.checkpoint is not None else ()


def open_run(context: RunContext) -> Opened:
    """Finds what the run goes on from, and opens its files; a collective.

    Raises:
        DisttrainError: on the worker that cannot open something; PeerError on the others.
    """
    config, backend, files = context.config, context.backend, Files(context)
    data = files.training_data()
    own = RunDefaults(str(default_directory(data[0])), backend.world.num_replicas)
    defaults = context.continuity.settle(own, backend)
    named = RunPaths.of(config, Path(defaults.output))
    together(backend, lambda: _hold(context, named))
    paths, checkpoint = _find_checkpoint(context, named)
    resumed = RunRecord.of(checkpoint) if checkpoint is not None else None
    source = files.open(data)
    training, validation = together(backend, lambda: _parts(config, source))
    if config.validation_data:
        validation = files.open(config.validation_data, like=source)
    kept = resumed.num_shards if resumed is not None else None
    num_shards = config.num_shards or kept or defaults.num_shards
    return Opened(source.url, source, training, validation, paths, checkpoint, resumed, num_shards)


def _parts(config: TrainConfig, source: Source) -> tuple[RowSource, RowSource | None]:
    """Returns the rows to train on and, if a share of the rows is held out, those to validate with."""
    if config.limit is None and not config.validation_split:
        return source, None
    kept = Choice(config.limit or source.num_rows, config.validation_split, config.seed)
    held_out = SelectedSource.of(source, replace(kept, is_held_out=True)) if config.validation_split else None
    return SelectedSource.of(source, kept), held_out


def _hold(context: RunContext, paths: RunPaths) -> None:
    """Locks, on the leader, the directories that this run writes to."""
    config = context.config
    if not context.backend.world.is_leader:
        return
    held = [str(paths.output)]
    if config.checkpoint_dir is not None and config.checkpoint_every != "never":
        held.append(paths.checkpoints)
    for url in dict.fromkeys(held):
        context.stack.enter_context(RunLock(url, context.console.print, context.continuity.launch))


def _find_checkpoint(context: RunContext, named: RunPaths) -> tuple[RunPaths, Checkpoint | None]:
    """Finds the checkpoint to go on from; all workers get its record, and only the leader gets its arrays."""
    backend = context.backend
    if context.continuity.last_commit is not None:
        return replace(named, resume_from=None), context.continuity.last_commit
    is_leader = backend.world.is_leader

    def find() -> tuple[RunPaths, Checkpoint | None]:
        paths, found = find_checkpoint(named, context.config, context.console.print)
        if found is not None:
            check_of_a_run(paths, found)
        return paths, found

    paths, found = together(backend, lambda: find() if is_leader else (named, None))
    paths, told = backend.gather((paths, (found.position, found.about) if found is not None else None))[0]
    return paths, found if told is None or is_leader else Checkpoint(*told, arrays={})
