"""The model that is exported: its inputs and outputs have names, and it computes in float32."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from disttrain.errors import UsageError
from disttrain.scoring.saved import Trained
from disttrain.training.raw_inputs import LABEL, KerasInput, RawInput
from disttrain.training.raw_model import raw_model

MATRIX = "features"  # the one input of a model that takes a matrix of numbers
PREDICTIONS = "predictions"
_HALVES = ("float16", "bfloat16")


def exportable(trained: Trained, read: type[RawInput] = KerasInput) -> keras.Model:
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
    """Makes a model compute in float32 inside the `with` statement, as its weights are.

    Other formats lack what GPUs compute in instead: float16, bfloat16 and, within products, TensorFloat-32.
    """
    halves = [layer for layer in model._flatten_layers() if layer.compute_dtype in _HALVES]
    policies = [layer.dtype_policy for layer in halves]
    usual, is_short = keras.config.dtype_policy(), tf.config.experimental.tensor_float_32_execution_enabled()
    keras.config.set_dtype_policy("float32")
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for layer in halves:
        layer.dtype_policy = "float32"
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)
        tf.config.experimental.enable_tensor_float_32_execution(is_short)
        for layer, policy in zip(halves, policies, strict=True):
            layer.dtype_policy = policy


def _identifiers(names: Sequence[str]) -> list[str]:
    """Returns what TensorFlow may call inputs: letters, digits and underscores, after a letter."""
    plain = (re.sub(r"[^A-Za-z0-9_]", "_", name) for name in names)
    return [name if name[:1].isalpha() and name != "self" else f"column_{name}" for name in plain]
