"""What differs between the run that wrote a checkpoint and this one, side by side, with the remedy for each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from disttrain.errors import CheckpointError

ANEW = "start anew with --overwrite"
MOST_WEIGHTS = 5  # of those that differ are shown


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was: both sides as text of one or more lines, and what to do about it."""

    name: str
    kept: str
    now: str
    remedy: str


def differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What keeps a run from going on where a checkpoint ends, in the order of the table below.

    Args:
        kept: of the run that wrote the checkpoint, as JSON gives it back; these keys, of which any may be missing on
            either side and is then not compared:

            data, validation_data: mapping of each file's URL to its fingerprint. A file that only moved is the same.
            num_rows, num_shards, batch_size, seed: integers; warmup_epochs: a number.
            features, targets, metrics: lists of names.
            shuffle, precision, compression, loss: strings.
            model, optimizer: lists of [name, shape, dtype], one for each variable, in order.
            optimizer_class: a string.
        now: the same of this run; tuples count as lists.
    """
    found: list[Difference] = []
    for name, compare in _COMPARED.items():
        follows = name == "optimizer" and any(difference.name == "model" for difference in found)
        if name in kept and name in now and not follows:
            difference = compare(name, _plain(kept[name]), _plain(now[name]))
            if difference is not None:
                found.append(difference)
    return found


def refuse(where: str, found: Sequence[Difference]) -> CheckpointError:
    """The error that shows the differences of the checkpoint `where` from this run under each other."""
    lines = [f"{where} is of another run:"]
    for difference in found:
        lines += [
            f"  {difference.name}",
            *_labelled("    in the checkpoint: ", difference.kept),
            *_labelled("    in this run:       ", difference.now),
            *_labelled("    what to do:        ", difference.remedy),
        ]
    return CheckpointError("\n".join(lines))


def _labelled(label: str, text: str) -> list[str]:
    first, *others = text.split("\n")
    return [label + first, *(" " * len(label) + line for line in others)]


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _option(name: str, kept: Any, now: Any) -> Difference | None:
    if kept == now:
        return None
    flag = f"--{name.replace('_', '-')}"
    value = ",".join(kept) if isinstance(kept, list) else str(kept)
    return Difference(name.replace("_", " "), value, _words(now), f"{flag} {shlex.quote(value)}, or {ANEW}")


def _words(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _data(name: str, kept: Mapping[str, str], now: Mapping[str, str]) -> Difference | None:
    if sorted(kept.values()) == sorted(now.values()):
        return None
    kept_text, now_text = (
        "\n".join(f"{url} ({fingerprint})" for url, fingerprint in sorted(side.items())) for side in (kept, now)
    )
    return Difference(name.replace("_", " "), kept_text, now_text, f"put the file back, or {ANEW}")


def _rows(name: str, kept: int, now: int) -> Difference | None:
    if kept == now:
        return None
    return Difference("rows", f"{kept:,}", f"{now:,}", f"put the file back, or {ANEW}")


def _model(name: str, kept: list[Any], now: list[Any]) -> Difference | None:
    return _variables("model", kept, now, f"build the same model (--model, --hidden), or {ANEW}")


def _optimizer(name: str, kept: list[Any], now: list[Any]) -> Difference | None:
    return _variables("optimizer's variables", kept, now, f"compile the model with the same optimizer, or {ANEW}")


def _optimizer_class(name: str, kept: str, now: str) -> Difference | None:
    if kept == now:
        return None
    return Difference("optimizer", kept, now, f"compile the model with {kept}, or {ANEW}")


def _loss(name: str, kept: str, now: str) -> Difference | None:
    if kept == now:
        return None
    return Difference("loss", kept, now, f"--loss {shlex.quote(kept)}, or compile your own model with it, or {ANEW}")


def _metrics(name: str, kept: Sequence[str], now: Sequence[str]) -> Difference | None:
    """Sums of an epoch that has begun are of the metrics it began with."""
    if kept == now:
        return None
    remedy = f"--metrics {shlex.quote(','.join(kept))}, or compile your own model with them, or {ANEW}"
    return Difference(name, ",".join(kept) or "none", ",".join(now) or "none", remedy)


def _variables(name: str, kept: list[Any], now: list[Any], remedy: str) -> Difference | None:
    """Compares variables in their order. Keras's numbers in the names (`dense_3`) differ from process to process."""
    missing = ["", None, ""]
    length = max(len(kept), len(now))
    sides = [[*side, *[missing] * (length - len(side))] for side in (kept, now)]
    differ = [(a, b) for a, b in zip(*sides, strict=True) if _unnumbered(a) != _unnumbered(b)]
    if not differ:
        return None
    shown = [[_variable(side) for side in pair] for pair in differ[:MOST_WEIGHTS]]
    more = [f"and {len(differ) - MOST_WEIGHTS} more"] if len(differ) > MOST_WEIGHTS else []
    kept_text, now_text = ("\n".join([*texts, *more]) for texts in zip(*shown, strict=True))
    return Difference(name, kept_text, now_text, remedy)


def _unnumbered(variable: Sequence[Any]) -> list[Any]:
    name, *others = variable
    return [re.sub(r"_\d+(?=[/_]|$)", "", name), *others]


def _variable(variable: Sequence[Any]) -> str:
    name, shape, dtype = variable
    return f"{name} {shape} {dtype}" if shape is not None else "none"


_COMPARED: dict[str, Callable[[str, Any, Any], Difference | None]] = {
    "data": _data,
    "validation_data": _data,
    "num_rows": _rows,
    "features": _option,
    "targets": _option,
    "num_shards": _option,
    "batch_size": _option,
    "shuffle": _option,
    "seed": _option,
    "precision": _option,
    "compression": _option,
    "warmup_epochs": _option,
    "model": _model,
    "loss": _loss,
    "metrics": _metrics,
    "optimizer_class": _optimizer_class,
    "optimizer": _optimizer,
}
