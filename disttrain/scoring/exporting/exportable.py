"""The model that is exported: its inputs and outputs have names, and it computes in float32."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from disttrain.errors import UsageError
from disttrain.scoring.saved import Trained
from disttrain.training.raw_inputs import LABEL, RawInput
from disttrain.training.raw_model import raw_model

MATRIX = "features"  # the one input of a model that takes a matrix of numbers
PREDICTIONS = "predictions"
_HALVES = ("float16", "bfloat16")


def exportable(trained: Trained, read: type[RawInput] = RawInput) -> keras.Model:
    """Returns a model that takes raw columns by name and gives its outputs by name.

    Its inputs are those of the saved model; one that takes a matrix, float32 [rows, features], has it as `features`.
    Its outputs are `predictions` [rows, targets], or `label` [rows] and `probabilities` [rows, labels].

    Args:
        trained: the model.
        read: how the columns are read; see `raw_model`.

    Raises:
        UsageError: for a model that gives something else than a row of numbers for each row.
    """
    description = trained.description
    if description.table is None:
        rows = keras.Input((len(description.features),), name=MATRIX)
        return keras.Model({MATRIX: rows}, {PREDICTIONS: _one_row(trained.core(rows))})
    names = _identifiers([column.name for column in description.table.features])
    model = raw_model(trained.core, description.table, by_name=description.by_name, read=read, names=names)
    outputs = model.output if isinstance(model.output, dict) else {PREDICTIONS: model.output}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")  # of a name that no layer may have
        return keras.Model(
            model.input, {name: one if name == LABEL else _one_row(one) for name, one in outputs.items()}
        )


def columns_of(trained: Trained) -> dict[str, tuple[str, ...]]:
    """Returns the file's columns that each input of the exported model is made of."""
    if trained.description.table is None:
        return {MATRIX: trained.description.features}
    return {column.name: (column.name,) for column in trained.description.table.features}


def _one_row(output: Any) -> Any:
    shape = getattr(output, "shape", None)
    if shape is None or len(shape) != 2:
        found = "several outputs" if shape is None else f"{list(shape[1:])} for a row"
        raise UsageError(f"the model gives {found}, expected a row of numbers")
    is_half = output.dtype in _HALVES  # also where layers compute in float32 now
    return keras.ops.cast(output, "float32") if is_half else output


@contextmanager
def computing_in_float32(model: keras.Model) -> Iterator[None]:
    """Makes a model's layers compute, inside the `with` statement, in the precision of their weights.

    What a GPU's float16 is for, other formats lack.
    """
    halves = [layer for layer in _layers_of(model) if layer.compute_dtype in _HALVES]
    policies = [layer.dtype_policy for layer in halves]
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    for layer in halves:
        layer.dtype_policy = "float32"
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)
        for layer, policy in zip(halves, policies, strict=True):
            layer.dtype_policy = policy


def _layers_of(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers_of(layer)
        else:
            yield layer


def _identifiers(names: Sequence[str]) -> list[str]:
    """Returns what TensorFlow may call inputs: letters, digits and underscores, after a letter."""
    plain = (re.sub(r"[^A-Za-z0-9_]", "_", name) for name in names)
    return [name if name[:1].isalpha() else f"column_{name}" for name in plain]
