"""Finds the row of a batch that a model or its loss rejects, by a second try on the CPU, whose kernels say why."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf

from disttrain.data.epoch import EpochPlan
from disttrain.data.locate import step_rows
from disttrain.data.row_source import Floats, RowSource
from disttrain.data.superbatches import Superbatch
from disttrain.errors import DataError
from disttrain.training.inputs import Inputs

T = TypeVar("T")

_INDEX = re.compile(r"= (-?\d+) is not in \[0, (\d+)\)")
_LABEL = re.compile(r"label value of (-?\d+) which is outside the valid range of \[0, (\d+)\)")


@dataclass(frozen=True)
class Refusal:
    """A row that cannot be used: its number in the batch, the column at fault if known, and what is wrong."""

    row: int
    column: int | None
    what: str


def refuse_row(
    source: RowSource, plan: EpochPlan, step: int, batch: Floats, model: keras.Model, inputs: Inputs
) -> None:
    """Raises DataError, with line and column, if the model rejects a row of a step's `batch`."""
    refusal = refused_row(model, batch, inputs)
    if refusal is not None:
        row = int(step_rows(source, plan, step)[refusal.row])
        names = (*source.feature_names, *source.target_names)
        column = "" if refusal.column is None else f"column '{names[refusal.column]}' "
        raise DataError(f"{source.place_of(row)}: {column}{refusal.what}")


@contextmanager
def refusals_located(
    source: RowSource, plan: EpochPlan, superbatch: Superbatch, model: keras.Model, inputs: Inputs
) -> Iterator[None]:
    """Makes what a kernel refuses of a superbatch a DataError that names the line."""
    try:
        yield
    except tf.errors.InvalidArgumentError:
        for number, batch in enumerate(superbatch.data):
            refuse_row(source, plan, superbatch.first_step + number, batch, model, inputs)
        raise


def refused_row(model: keras.Model, rows: Floats, inputs: Inputs) -> Refusal | None:
    """Returns the first row of float32 `[rows, columns]` that the model or its loss rejects; None if there is none.

    These are rows with an index or a label out of range, and rows whose loss is not finite though the model's outputs
    are.
    """

    def complaint(part: Floats) -> str | None:
        try:
            with tf.device("CPU:0"):
                _losses(model, part, inputs)
        except tf.errors.InvalidArgumentError as error:
            return str(error.message)
        return None

    if (found := _first(rows, complaint)) is not None:
        return _of_complaint(rows, inputs, *found)
    if not np.isfinite(rows).all():
        return None  # the values themselves are at fault

    def odd_loss(part: Floats) -> tuple[Floats, float] | None:
        answers, loss = _losses(model, part, inputs)
        return (answers, loss) if not np.isfinite(loss) and np.isfinite(answers).all() else None

    if (odd := _first(rows, odd_loss)) is not None:
        row, (answers, loss) = odd
        labels = ", ".join(f"{label:.6g}" for label in inputs.split(rows)[1][row])
        answer = f"{answers.ravel()[0]:.6g}" + (", …" if answers.size > 1 else "")
        return Refusal(
            row, None, f"the loss of the output {answer} and the target {labels} is {loss}: it accepts no such target"
        )
    return None


def _losses(model: keras.Model, rows: Floats, inputs: Inputs) -> tuple[Floats, float]:
    x, y, weights = inputs.split(tf.constant(rows))
    answers = model(x, training=False)
    return np.asarray(answers), float(model.compute_loss(x, y, answers, weights, training=False))


def _first(rows: Floats, judge: Callable[[Floats], T | None]) -> tuple[int, T] | None:
    """Finds by bisection the first row for which `judge` returns something; returns its number and that result."""
    if not len(rows) or judge(rows) is None:
        return None
    start, stop = 0, len(rows)
    while stop - start > 1:
        middle = (start + stop) // 2
        start, stop = (start, middle) if judge(rows[start:middle]) is not None else (middle, stop)
    found = judge(rows[start:stop])
    return None if found is None else (start, found)


def _of_complaint(rows: Floats, inputs: Inputs, row: int, complaint: str) -> Refusal:
    label, index = _LABEL.search(complaint), _INDEX.search(complaint)
    match = label or index
    if match is None:
        return Refusal(row, None, f"the model refuses the row: {complaint.strip().splitlines()[0]}")
    value, size = int(match[1]), int(match[2])
    columns = np.flatnonzero(np.trunc(rows[row]) == value).tolist()
    wanted = [column for column in columns if (column >= inputs.num_features) == (label is not None)]
    what = f"holds {value}, but the model takes 0 to {size - 1} there"
    return Refusal(row, wanted[0] if wanted else None, what)
