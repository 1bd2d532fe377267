"""Where a run goes on from: the newest checkpoint of its directory, or one that was named, if it fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from disttrain.activity import activity
from disttrain.checkpoints.differences import refuse
from disttrain.checkpoints.file import Checkpoint, Position, file_name, foreign_content, position_of
from disttrain.checkpoints.record import RunRecord
from disttrain.checkpoints.store import BestMode, CheckpointStore
from disttrain.config import TrainConfig
from disttrain.errors import UsageError, redacted
from disttrain.run.directory import CHECKPOINTS, HISTORY, MODEL
from disttrain.storage.local import local_path
from disttrain.training.checkpointing import Contents

FOREIGN = "is whole, but not from a disttrain run ({}); --overwrite starts over"


@dataclass(frozen=True)
class RunPaths:
    """Where a run's results and its checkpoints go, and where it is to resume from, if that is elsewhere."""

    output: Path
    checkpoints: str
    resume_from: str | None = None

    @classmethod
    def of(cls, config: TrainConfig, default_output: Path) -> RunPaths:
        """Takes the paths from the options; `--resume RUN` alone goes on in that run's own directory."""
        named = None if config.resume in ("auto", "never") else config.resume.rstrip("/")
        output, path = config.output, local_path(named) if named is not None else None
        if path is not None and (path / CHECKPOINTS).is_dir():
            output, named = output or path, str(path / CHECKPOINTS)
        output = output or default_output
        checkpoints = (config.checkpoint_dir or str(output / CHECKPOINTS)).rstrip("/")
        return cls(output, checkpoints, None if named is None or _is_same(named, checkpoints) else named)


def find_checkpoint(
    paths: RunPaths, config: TrainConfig, say: Callable[[str], None]
) -> tuple[RunPaths, Checkpoint | None]:
    """Finds the checkpoint to go on from, None to start anew, and the paths of the run that goes on.

    These are its own alone where a run that began from a checkpoint elsewhere has checkpoints already: it goes on from
    those. Whatever is passed over is said, with the reason.

    Raises:
        UsageError: if there are checkpoints, but none can be taken, or they are of a run that is not to go on here.
        StorageError: if a store or a disk does not answer.
    """
    if config.overwrite:
        return paths, None
    if config.resume in ("auto", "never") and config.checkpoint_dir is None and not paths.output.is_dir():
        return paths, None
    elsewhere = paths.resume_from
    starts_anew = config.resume == "never" or (config.resume == "auto" and config.checkpoint_every == "never")
    with CheckpointStore(paths.checkpoints, keep=config.keep) as store:
        holds_some = bool(store.names())
        if holds_some and starts_anew:
            raise UsageError(
                f"{paths.checkpoints}: holds checkpoints of an earlier run; name another directory or add --overwrite"
            )
        if holds_some or (elsewhere is None and config.resume != "auto"):
            found = _newest(store, say)
            if elsewhere is not None and RunRecord.of(found).resumed_from != redacted(config.resume):
                raise UsageError(
                    f"{paths.checkpoints}: holds checkpoints of a run that did not begin from {config.resume}; "
                    "name another directory, or go on with that run without --resume"
                )
            return replace(paths, resume_from=None), found
    return paths, None if elsewhere is None else _load(elsewhere, config, say)


def _load(path: str, config: TrainConfig, say: Callable[[str], None]) -> Checkpoint:
    """Loads the checkpoint of this path or URL, or the newest of a directory."""
    directory, _, name = path.rpartition("/")
    is_one = position_of(name) is not None
    with CheckpointStore((directory or ".") if is_one else path, keep=config.keep) as store:
        return store.load(name) if is_one else _newest(store, say)


def _newest(store: CheckpointStore, say: Callable[[str], None]) -> Checkpoint:
    found = store.newest(lambda name, reason: say(f"Passed over checkpoint {name}: {reason}"))
    if found is None:
        raise UsageError(f"{store.url}: has no usable checkpoint; --overwrite starts over")
    return found


def _is_same(one: str, other: str) -> bool:
    path, other_path = local_path(one), local_path(other)
    if path is None or other_path is None:
        return one == other
    return path.resolve() == other_path.resolve()


def how_to_go_on(paths: RunPaths, config: TrainConfig) -> str:
    """Tells how to go on with a run that was stopped, for its last line."""
    if config.output is not None:
        how = "the same command again"
    elif config.checkpoint_dir is not None:
        how = f"the same command with --output {paths.output}"
    else:
        how = f"--resume {paths.output}"
    return f"to go on: {how}{', without --overwrite' if config.overwrite else ''}"


def best_by(config: TrainConfig) -> tuple[str, BestMode] | None:
    """Returns the name of the value by which the best checkpoint is kept, and whether the best is the min or max."""
    if config.keep_best is None:
        return ("val_loss", "min") if config.validates else None
    name, _, mode = config.keep_best.partition(":")
    return name, "max" if mode == "max" else "min"


def show_position(position: Position) -> str:
    """Formats a position: `epoch 3, step 1,200`."""
    return f"epoch {position.epoch}, step {position.step:,}"


def check_of_a_run(paths: RunPaths, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a checkpoint that is whole, but tells nothing of a training run."""
    with foreign_content(f"{paths.resume_from or paths.checkpoints}, {file_name(checkpoint.position)}", FOREIGN):
        Contents.of(checkpoint)
        checkpoint.about["run"]["num_shards"], checkpoint.about["run"]["options"]["resume"]


def check_same_run(paths: RunPaths, checkpoint: Checkpoint, now: RunRecord) -> None:
    """Raises CheckpointError with what differs between the run of a checkpoint and this one, if anything does."""
    name = file_name(checkpoint.position)
    where = paths.resume_from or paths.checkpoints
    with foreign_content(f"{where}, {name}", FOREIGN):
        found = RunRecord.of(checkpoint).differences(now)
    if found:
        where = where.rstrip("/")
        raise refuse(where if where.endswith(name) else f"{where}/{name}", found)


def is_finished(paths: RunPaths, checkpoint: Checkpoint, epochs: int) -> bool:
    """Tells whether a run has nothing left to do: its last epoch is done and its model is there."""
    if paths.resume_from is not None or not Contents.of(checkpoint).progress.is_done(epochs):
        return False
    model, history = paths.output / MODEL, paths.output / HISTORY
    if not (model.exists() and history.exists()):
        return False
    return model.stat().st_mtime_ns >= history.stat().st_mtime_ns  # else it is of fewer epochs than there are


def save_commit(config: TrainConfig, commit: Checkpoint) -> str:
    """Writes the last commit of an elastic run that is stopped between two worlds; returns what to say."""
    paths = RunPaths.of(config, Path(str(RunRecord.of(commit).output)))
    store = CheckpointStore(paths.checkpoints, keep=config.keep, best_by=best_by(config))
    with store, activity("writing the last checkpoint"):
        store.save(commit)
    position = commit.position
    return f"stopped in epoch {position.epoch}, after step {position.step:,}; {how_to_go_on(paths, config)}"
