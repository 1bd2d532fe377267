"""Compares what an exported model gives with what the Keras model gives for the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt

from disttrain.training.raw_inputs import LABEL, PROBABILITIES

TOLERANCE = 1e-4
Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]  # by the name of an input or output; texts are objects
Runner: TypeAlias = Callable[[Arrays], Arrays]


def answers_of(model: keras.Model, inputs: Arrays) -> Arrays:
    """Returns what a Keras model of named inputs and outputs gives."""
    given = {name: keras.ops.convert_to_tensor(value, model.input[name].dtype) for name, value in inputs.items()}
    return {name: np.asarray(value) for name, value in model(given, training=False).items()}


def differences(expected: Arrays, run: Runner, inputs: Arrays, labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """Returns how far an exported model is off, row by row; infinite where it gives no number but Keras does.

    Numbers are compared with the larger of 1 and the number's size. A label that differs counts by how much more
    probable the right one is. The first row is given alone, the others together.
    """
    parts = [run({name: value[part] for name, value in inputs.items()}) for part in (slice(0, 1), slice(1, None))]
    found = {name: np.concatenate([part[name] for part in parts]) for name in expected}
    rows = np.zeros(len(next(iter(expected.values()))))
    for name, right in expected.items():
        own = _of_labels(found[name], right, expected[PROBABILITIES], labels) if name == LABEL else None
        rows = np.maximum(rows, _of_numbers(found[name], right) if own is None else own)
    return rows


def _of_numbers(found: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if found.shape != right.shape:
        return np.full(len(right), np.inf)
    found, right = found.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore"):
        off = np.abs(found - right) / np.maximum(1, np.abs(right))
    same = (found == right) | (np.isnan(found) & np.isnan(right))
    shown: npt.NDArray[np.float64] = np.where(same, 0, np.where(np.isnan(off), np.inf, off)).max(axis=1)
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
