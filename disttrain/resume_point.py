"""Where a run goes on from: the newest checkpoint of its directory, or one that was named, if it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from disttrain.checkpoint import Checkpoint, Position, file_name, position_of
from disttrain.checkpoint_store import CheckpointStore, Mode
from disttrain.config import TrainConfig
from disttrain.errors import CheckpointError, UsageError
from disttrain.model import top_learning_rate
from disttrain.plan import Pass
from disttrain.redaction import all_redacted, redacted
from disttrain.reporting.results import CHECKPOINTS, HISTORY, MODEL
from disttrain.resume import differences, refuse
from disttrain.standing import Standing
from disttrain.state import describe_variables
from disttrain.storage import local_path


@dataclass(frozen=True)
class Places:
    """Where a run's results and its checkpoints go, and what it was told to go on from, if that is elsewhere."""

    output: Path
    checkpoints: str
    named_elsewhere: str | None = None

    @classmethod
    def of(cls, config: TrainConfig, default_output: Path) -> Places:
        """The places that the options name; `--resume RUN` alone goes on in that run's own directory."""
        named = None if config.resume in ("auto", "never") else config.resume.rstrip("/")
        output, path = config.output, local_path(named) if named is not None else None
        if path is not None and (path / CHECKPOINTS).is_dir():
            output, named = output or path, str(path / CHECKPOINTS)
        output = output or default_output
        checkpoints = (config.checkpoint_dir or str(output / CHECKPOINTS)).rstrip("/")
        return cls(output, checkpoints, None if named is None or _is_same(named, checkpoints) else named)


def find_checkpoint(
    places: Places, config: TrainConfig, say: Callable[[str], None]
) -> tuple[Places, Checkpoint | None]:
    """The checkpoint to go on from, None to start anew, and the places of the run that goes on.

    These are its own alone where a run that began from a checkpoint elsewhere has checkpoints already: it goes on from
    those. Whatever is passed over is said, with the reason.

    Raises:
        UsageError: if there are checkpoints, but none can be taken, or they are of a run that is not to go on here.
        StorageError: if a store or a disk does not answer.
    """
    if config.overwrite:
        return places, None
    if config.resume in ("auto", "never") and config.checkpoint_dir is None and not places.output.is_dir():
        return places, None
    elsewhere = places.named_elsewhere
    starts_anew = config.resume == "never" or (config.resume == "auto" and config.checkpoint_every == "never")
    with CheckpointStore(places.checkpoints, keep=config.keep) as store:
        holds_some = bool(store.names())
        if holds_some and starts_anew:
            raise UsageError(
                f"{places.checkpoints}: holds checkpoints of an earlier run; name another place or add --overwrite"
            )
        if holds_some or (elsewhere is None and config.resume != "auto"):
            found = _newest(store, say)
            if elsewhere is not None and found.about["run"]["options"]["resume"] != redacted(config.resume):
                raise UsageError(
                    f"{places.checkpoints}: holds checkpoints of a run that did not begin from {config.resume}; "
                    "name another place, or go on with that run without --resume"
                )
            return replace(places, named_elsewhere=None), found
    return places, None if elsewhere is None else _load(elsewhere, config, say)


def _load(place: str, config: TrainConfig, say: Callable[[str], None]) -> Checkpoint:
    """The checkpoint of this path or URL, or the newest of a directory."""
    directory, _, name = place.rpartition("/")
    is_one = position_of(name) is not None
    with CheckpointStore((directory or ".") if is_one else place, keep=config.keep) as store:
        return store.load(name) if is_one else _newest(store, say)


def _newest(store: CheckpointStore, say: Callable[[str], None]) -> Checkpoint:
    found = store.newest(lambda name, reason: say(f"Passed over checkpoint {name}: {reason}"))
    if found is None:
        raise UsageError(f"{store.url}: has no checkpoint that can be taken; --overwrite starts anew")
    return found


@contextmanager
def _foreign_content(where: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{where}: is whole, but not of a run of disttrain's ({type(error).__name__}: {error}); --overwrite starts "
            "anew"
        ) from error


def _is_same(place: str, other: str) -> bool:
    path, other_path = local_path(place), local_path(other)
    if path is None or other_path is None:
        return place == other
    return path.resolve() == other_path.resolve()


def how_to_go_on(places: Places, config: TrainConfig) -> str:
    """What goes on with a run that was stopped, for its last line."""
    if config.output is not None:
        how = "the same command again"
    elif config.checkpoint_dir is not None:
        how = f"the same command with --output {places.output}"
    else:
        how = f"--resume {places.output}"
    return f"to go on: {how}{', without --overwrite' if config.overwrite else ''}"


def best_by(config: TrainConfig) -> tuple[str, Mode] | None:
    """The monitored value by which the best checkpoint stays, and which is best."""
    if config.keep_best is None:
        return ("val_loss", "min") if config.validation_data else None
    name, _, mode = config.keep_best.partition(":")
    return name, "max" if mode == "max" else "min"


def show_position(position: Position) -> str:
    """`epoch 3, step 1,200`."""
    return f"epoch {position.epoch}, step {position.step:,}"


def describe_run(
    config: TrainConfig, training: Pass, validation: Pass | None, model: keras.Model, places: Places
) -> dict[str, Any]:
    """What a checkpoint tells of the run that wrote it: what must be the same to go on from it, and its options."""
    source = training.source
    return {
        "data": _fingerprint(training),
        **({"validation_data": _fingerprint(validation)} if validation is not None else {}),
        "num_rows": source.num_rows,
        "features": list(source.feature_names),
        "targets": list(source.target_names),
        "num_shards": training.num_shards,
        "batch_size": training.batch_size,
        "shuffle": config.shuffle,
        "seed": config.seed,
        "precision": config.precision,
        "compression": config.compression,
        "warmup_epochs": config.warmup_epochs,
        "model": describe_variables(model.variables),
        "loss": _loss_name(model),
        "metrics": metric_names(model),
        "optimizer_class": type(model.optimizer).__name__,
        "optimizer": describe_variables(model.optimizer.variables),
        "learning_rate": top_learning_rate(config, training.num_shards),
        "output": str(places.output),
        "options": all_redacted(config.model_dump(mode="json")),
    }


def check_of_a_run(places: Places, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a checkpoint that is whole, but tells nothing of a training run."""
    about = checkpoint.about
    with _foreign_content(f"{places.named_elsewhere or places.checkpoints}, {file_name(checkpoint.position)}"):
        Standing.from_json(about["standing"])
        list(about["callbacks"]), set(about["state"]), about["run"]["num_shards"], about["run"]["options"]["resume"]


def check_same_run(places: Places, checkpoint: Checkpoint, run: Mapping[str, Any]) -> None:
    """Raises CheckpointError with what differs between the run of a checkpoint and this one, if anything does."""
    where = f"{places.named_elsewhere or places.checkpoints}, {file_name(checkpoint.position)}"
    with _foreign_content(where):
        found = differences(checkpoint.about["run"], run)
    if found:
        where = (places.named_elsewhere or places.checkpoints).rstrip("/")
        name = file_name(checkpoint.position)
        raise refuse(where if where.endswith(name) else f"{where}/{name}", found)


def is_finished(places: Places, checkpoint: Checkpoint, epochs: int) -> bool:
    """Whether a run that would go on has nothing left to do: its last epoch is done and its model is there."""
    if places.named_elsewhere is not None or not Standing.from_json(checkpoint.about["standing"]).is_done(epochs):
        return False
    model, history = places.output / MODEL, places.output / HISTORY
    if not (model.exists() and history.exists()):
        return False
    return model.stat().st_mtime_ns >= history.stat().st_mtime_ns  # else it is of fewer epochs than there are


def kept_setting(checkpoint: Checkpoint | None, name: str, otherwise: Any) -> Any:
    """What the run of a checkpoint had for a setting."""
    return otherwise if checkpoint is None else checkpoint.about["run"][name]


def new_learning_rate(config: TrainConfig, num_shards: int, checkpoint: Checkpoint | None) -> float | None:
    """The learning rate that was asked for, if it is another than the checkpoint's run began with.

    Where a schedule warms up to it, the model has that schedule already.
    """
    wanted = top_learning_rate(config, num_shards)
    before = kept_setting(checkpoint, "learning_rate", wanted)
    return wanted if wanted != before and not config.warmup_epochs else None


def check_keep_best(config: TrainConfig, metrics: Sequence[str]) -> None:
    """Raises UsageError if no epoch will have the value by which the best checkpoint is to stay."""
    monitored = best_by(config)
    names = ["loss", *metrics]
    names += [f"val_{name}" for name in names] if config.validation_data else []
    if monitored is not None and monitored[0] not in names:
        raise UsageError(f"--keep-best {monitored[0]}: there is no such number; there are {', '.join(names)}")


def metric_names(model: keras.Model, *, scalars: bool = False) -> list[str]:
    """What a built model's metrics are called, the loss apart; where wanted only those of one number."""
    results = model.get_metrics_result()
    return [name for name, value in results.items() if name != "loss" and not (scalars and np.ndim(value))]


def _fingerprint(rows: Pass) -> dict[str, str]:
    return {redacted(rows.source.url): rows.source.info.fingerprint}


def _loss_name(model: keras.Model) -> str:
    loss = model.loss
    return loss if isinstance(loss, str) else str(getattr(loss, "name", None) or getattr(loss, "__name__", loss))
