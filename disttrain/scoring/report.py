"""Prints what an evaluation found, for people and as JSON."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from disttrain.errors import redacted
from disttrain.run.console import show_number, show_rate, show_values
from disttrain.scoring.evaluation import Evaluated

WIDTH = 140  # where there is no terminal
MOST_SHOWN = 20  # labels of a confusion matrix; --json has all


def report(found: Evaluated, *, as_json: bool) -> None:
    """Prints an evaluation."""
    if as_json:
        print(
            json.dumps(_plain({**vars(found), "model": redacted(found.model), "data": redacted(found.data)}), indent=2)
        )
        return
    console = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH)
    left_out = f", {found.weightless:,} of them without weight" if found.weightless else ""
    console.print(f"{redacted(found.data)}: {found.rows:,} rows{left_out}, {show_rate(found.rows / found.seconds)}")
    console.print(show_values(found.values))
    for one in found.numbers:
        figures = " · ".join(f"{name} {show_number(one[name])}" for name in ("mae", "rmse", "r2"))
        console.print(f"{one['target']}: {figures}")
    if found.classes:
        _report_classes(console, found.classes)
    if found.importance:
        grid = Grid(box=None, pad_edge=False, header_style="bold")
        for title in ("permuted", "loss", "increase"):
            grid.add_column(title, justify="left" if title == "permuted" else "right")
        for one in found.importance:
            grid.add_row(one["feature"], show_number(one["loss"]), show_number(one["increase"]))
        console.print(grid)


def _report_classes(console: Console, classes: Any) -> None:
    if "auc" in classes:
        console.print(f"auc {show_number(classes['auc'])}")
    labels = [one["label"] for one in classes["classes"]]
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    shown = labels if classes["confusion"] and len(labels) <= MOST_SHOWN else []
    counted = classes["confusion"] or [[]] * len(labels)
    for title in ("label", "rows", "precision", "recall", "f1", *(f"as {label}" for label in shown)):
        grid.add_column(title, justify="left" if title == "label" else "right")
    for one, counts in zip(classes["classes"], counted, strict=True):
        figures = [f"{one[name]:.4f}" for name in ("precision", "recall", "f1")]
        grid.add_row(one["label"], f"{one['rows']:,.0f}", *figures, *(f"{n:,.0f}" for n in counts[: len(shown)]))
    console.print(grid)


def _plain(value: Any) -> Any:
    """Returns a value as JSON can hold it: NaN becomes null."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
