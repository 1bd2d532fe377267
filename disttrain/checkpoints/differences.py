"""Compares two runs' records: what differs, side by side, with the remedy for each difference."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from disttrain.errors import CheckpointError

ANEW = "start over with --overwrite"
MOST_WEIGHTS = 5  # at most so many of the variables that differ are shown


@dataclass(frozen=True)
class Difference:
    """One thing that differs: both sides as text of one or more lines, and what to do about it."""

    name: str
    kept: str
    now: str
    remedy: str


def refuse(where: str, found: Sequence[Difference]) -> CheckpointError:
    """Returns the error that shows, for each difference, the checkpoint `where` and this run under each other."""
    lines = [f"{where} belongs to another run:"]
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


def compare_option(name: str, kept: Any, now: Any) -> Difference | None:
    """Compares an option of this name."""
    if kept == now:
        return None
    flag = f"--{name.replace('_', '-')}"
    value = ",".join(kept) if isinstance(kept, list) else str(kept)
    return Difference(name.replace("_", " "), value, _words(now), f"{flag} {shlex.quote(value)}, or {ANEW}")


def _words(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def compare_files(name: str, kept: Mapping[str, str], now: Mapping[str, str]) -> Difference | None:
    """Compares files by their fingerprints, whatever they are called."""
    if sorted(kept.values()) == sorted(now.values()):
        return None
    kept_text, now_text = (
        "\n".join(f"{url} ({fingerprint})" for url, fingerprint in sorted(side.items())) for side in (kept, now)
    )
    return Difference(name.replace("_", " "), kept_text, now_text, f"put the file back, or {ANEW}")


def compare_rows(name: str, kept: int, now: int) -> Difference | None:
    """Compares the number of rows."""
    if kept == now:
        return None
    return Difference("rows", f"{kept:,}", f"{now:,}", f"put the file back, or {ANEW}")


def compare_table(name: str, kept: Mapping[str, Any], now: Mapping[str, Any]) -> Difference | None:
    """Compares what is done to each column; shows the first column for which that differs."""
    if kept == now:
        return None
    sides = [{column["name"]: column for column in side.get("columns", ())} for side in (kept, now)]
    names = [*sides[0], *(name for name in sides[1] if name not in sides[0])]
    differing = next((name for name in names if sides[0].get(name) != sides[1].get(name)), "")
    mine, other = (side.get(differing) for side in sides)
    keys = [key for key in (mine or other or {}) if (mine or {}).get(key) != (other or {}).get(key)]
    kept_text, now_text = (_column_text(differing, side, keys) for side in (mine, other))
    remedy = f"give --kinds, --scale, --missing, --weight and the like as before, or {ANEW}"
    return Difference("what is done to the columns", kept_text, now_text, remedy)


def _column_text(name: str, column: Mapping[str, Any] | None, keys: Sequence[str]) -> str:
    """Returns some of what is done to a column, shortened."""
    if column is None:
        return f"'{name}': used as it is, or not at all" if name else "other weights of classes, or other gaps"
    parts = [f"{key.replace('_', ' ')} {str(column[key])[:60]}" for key in keys if key != "name"]
    return f"'{name}': {', '.join(parts) or 'the same'}"


def compare_model(name: str, kept: list[Any], now: list[Any]) -> Difference | None:
    """Compares the model's variables."""
    return _variables("model", kept, now, f"build the same model (--model, --hidden), or {ANEW}")


def compare_optimizer(name: str, kept: list[Any], now: list[Any]) -> Difference | None:
    """Compares the optimizer's variables."""
    return _variables("optimizer's variables", kept, now, f"compile the model with the same optimizer, or {ANEW}")


def compare_optimizer_class(name: str, kept: str, now: str) -> Difference | None:
    """Compares the optimizer's class."""
    if kept == now:
        return None
    remedy = f"--optimizer {kept.lower()}, or compile your own model with {kept}, or {ANEW}"
    return Difference("optimizer", kept, now, remedy)


def compare_optimizer_name(name: str, kept: str, now: str) -> Difference | None:
    """Compares how the options name the optimizer."""
    return _named("--optimizer", kept, now)


def compare_schedule(name: str, kept: str, now: str) -> Difference | None:
    """Compares the learning rate's schedule; it has none if it is a number."""
    return _named("--learning-rate", kept, now)


def compare_metric_arguments(name: str, kept: str, now: str) -> Difference | None:
    """Compares the metrics that have arguments."""
    return _named("--metrics", kept, now)


def _named(option: str, kept: str, now: str) -> Difference | None:
    if kept == now:
        return None
    title, nothing = option.strip("-").replace("-", " "), "as the name or the number alone"
    remedy = f"{option} {shlex.quote(kept)}" if kept else f"{option} without {shlex.quote(now)}"
    return Difference(title, kept or nothing, now or nothing, f"{remedy}, or {ANEW}")


def compare_loss(name: str, kept: str, now: str) -> Difference | None:
    """Compares the loss."""
    if kept == now:
        return None
    return Difference("loss", kept, now, f"--loss {shlex.quote(kept)}, or compile your own model with it, or {ANEW}")


def compare_metrics(name: str, kept: Sequence[str], now: Sequence[str]) -> Difference | None:
    """Compares metrics: the sums of an epoch that has begun belong to the metrics that it began with."""
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
