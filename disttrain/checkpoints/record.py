"""What a checkpoint records of the run that wrote it, and how each part is compared with a run that goes on from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from disttrain.checkpoints.differences import (
    Difference,
    compare_files,
    compare_loss,
    compare_metric_arguments,
    compare_metrics,
    compare_model,
    compare_optimizer,
    compare_optimizer_class,
    compare_optimizer_name,
    compare_option,
    compare_rows,
    compare_schedule,
    compare_table,
)
from disttrain.checkpoints.file import Checkpoint

Variables = Sequence[Sequence[Any]]  # [name, shape, dtype] of each variable, in order
_Compare = Callable[[str, Any, Any], Difference | None]


def _by(compare: _Compare) -> dict[str, _Compare]:
    """Returns the metadata of a field that must not change; `compare` returns the difference, with its remedy."""
    return {"compare": compare}


@dataclass(frozen=True)
class RunRecord:
    """A run as its checkpoints describe it: what must not change to go on from them, in the order of comparison.

    A field that is None is not known: an older disttrain did not record it, or the run has none. It is not compared.

    Attributes:
        data: each file's URL with its fingerprint; likewise validation_data. A file that only moved is the same.
        table: what is done to each column, with the statistics that this follows from; empty if nothing is done to any.
        model: the variables of the model; `optimizer` those of its optimizer.
        optimizer_name, schedule, metric_arguments: the optimizer, the learning rate's schedule and the metrics that
            have arguments, as the options name them; empty if there is none.
        learning_rate: the one that the run began with, or the highest of its schedule.
        output: the run's directory.
        options: as they were given, without secrets.
    """

    data: Mapping[str, str] | None = field(default=None, metadata=_by(compare_files))
    validation_data: Mapping[str, str] | None = field(default=None, metadata=_by(compare_files))
    limit: int | None = field(default=None, metadata=_by(compare_option))
    validation_split: float | None = field(default=None, metadata=_by(compare_option))
    num_rows: int | None = field(default=None, metadata=_by(compare_rows))
    features: Sequence[str] | None = field(default=None, metadata=_by(compare_option))
    targets: Sequence[str] | None = field(default=None, metadata=_by(compare_option))
    table: Mapping[str, Any] | None = field(default=None, metadata=_by(compare_table))
    num_shards: int | None = field(default=None, metadata=_by(compare_option))
    batch_size: int | None = field(default=None, metadata=_by(compare_option))
    shuffle: str | None = field(default=None, metadata=_by(compare_option))
    seed: int | None = field(default=None, metadata=_by(compare_option))
    precision: str | None = field(default=None, metadata=_by(compare_option))
    compression: str | None = field(default=None, metadata=_by(compare_option))
    decay: str | None = field(default=None, metadata=_by(compare_option))
    warmup_epochs: float | None = field(default=None, metadata=_by(compare_option))
    model: Variables | None = field(default=None, metadata=_by(compare_model))
    loss: str | None = field(default=None, metadata=_by(compare_loss))
    metrics: Sequence[str] | None = field(default=None, metadata=_by(compare_metrics))
    metric_arguments: str | None = field(default=None, metadata=_by(compare_metric_arguments))
    optimizer_class: str | None = field(default=None, metadata=_by(compare_optimizer_class))
    optimizer_name: str | None = field(default=None, metadata=_by(compare_optimizer_name))
    schedule: str | None = field(default=None, metadata=_by(compare_schedule))
    optimizer: Variables | None = field(default=None, metadata=_by(compare_optimizer))
    learning_rate: float | None = None
    output: str | None = None
    options: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> RunRecord:
        """Reads what `to_json` returned, through JSON; ignores fields that this disttrain does not know."""
        known = {one.name: kept[one.name] for one in fields(cls) if one.name in kept}
        return cls(**{"table": {}, **known})  # an older disttrain did nothing to columns

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> RunRecord:
        """Returns the record in a checkpoint.

        Raises:
            KeyError: or a similar error, if something other than a run wrote the checkpoint.
        """
        return cls.from_json(checkpoint.about["run"])

    def to_json(self) -> dict[str, Any]:
        """Returns the fields that are known, as JSON can hold them."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def resumed_from(self) -> str:
        """The run's own `--resume`."""
        return str((self.options or {})["resume"])

    def differences(self, now: RunRecord) -> list[Difference]:
        """Returns what keeps the run `now` from going on where a checkpoint of this one ends.

        Where the models differ, their optimizers' variables differ too, and are not compared.
        """
        found: list[Difference] = []
        for one in fields(self):
            mine, other = getattr(self, one.name), getattr(now, one.name)
            compare = one.metadata.get("compare")
            follows = one.name == "optimizer" and any(difference.name == "model" for difference in found)
            if compare is None or mine is None or other is None or follows:
                continue
            difference = compare(one.name, _plain(mine), _plain(other))
            if difference is not None:
                found.append(difference)
        return found


def _plain(value: Any) -> Any:
    """Returns a value as JSON gives it back, with lists for tuples."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
