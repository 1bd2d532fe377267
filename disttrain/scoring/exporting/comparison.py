"""Compares what an exported model gives with what the Keras model gives for the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt

from disttrain.training.raw_inputs import LABEL, PROBABILITIES

TOLERANCE = 1e-4  # float32 rounds by 6e-8; sums of many terms in another order differ by some 1e-6
Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]  # by the name of an input or output; texts are objects
Runner: TypeAlias = Callable[[Arrays], Arrays]


def answers_of(model: keras.Model, inputs: Arrays) -> Arrays:
    """Returns what a Keras model of named inputs and outputs gives."""
    given = {name: keras.ops.convert_to_tensor(value, model.input[name].dtype) for name, value in inputs.items()}
    return {name: np.asarray(value) for name, value in model(given, training=False).items()}


def differences(expected: Arrays, run: Runner, inputs: Arrays, labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """Returns how far an exported model is off, row by row: infinite where it gives no number but Keras does.

    Numbers are compared with the larger of 1 and the number's size. A label that differs counts by how much more
    probable the right one is. Rows to which Keras gives no number count as 0. The first row is given alone, the others
    together.
    """
    num_rows = len(next(iter(expected.values())))
    shares = [slice(0, 1), slice(1, None)] if num_rows > 1 else [slice(None)]
    parts = [run({name: value[share] for name, value in inputs.items()}) for share in shares]
    found = {name: np.concatenate([part[name] for part in parts]) for name in expected}
    rows = np.zeros(num_rows)
    for name, right in expected.items():
        own = _of_labels(found[name], right, expected[PROBABILITIES], labels) if name == LABEL else None
        rows = np.maximum(rows, _of_numbers(found[name], right) if own is None else own)
    return np.where(have_answers(expected), rows, 0)


def have_answers(answers: Arrays) -> npt.NDArray[np.bool_]:
    """Returns which rows a model gives numbers to."""
    numbers = [value for name, value in answers.items() if name != LABEL]
    found: npt.NDArray[np.bool_] = ~np.any([np.isnan(value).any(axis=1) for value in numbers], axis=0)
    return found


def _of_numbers(found: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if found.shape != right.shape:
        return np.full(len(right), np.inf)
    found, right = found.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore"):
        off = np.abs(found - right) / np.maximum(1, np.abs(right))
    shown: npt.NDArray[np.float64] = np.where(found == right, 0, np.where(np.isnan(off), np.inf, off)).max(axis=1)
    return shown


def _of_labels(
    found: npt.NDArray[Any], right: npt.NDArray[Any], probabilities: npt.NDArray[Any], labels: Sequence[str]
) -> npt.NDArray[np.float64]:
    off = np.zeros(len(right))
    for row in np.flatnonzero(_texts(found) != _texts(right)):
        label = str(_texts(found)[row])
        share = probabilities[row, labels.index(label)] if label in labels else -np.inf
        off[row] = probabilities[row].max() - share
    return off


def _texts(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.array([one.decode() if isinstance(one, bytes) else str(one) for one in values.ravel()], object)
