"""Wraps a trained model: it takes a table's raw columns by name, and answers in the target's own units or labels.

Everything in it is Keras's own: any program that has Keras can load it, in safe mode, without disttrain. What the model
was trained on came out of `disttrain.data.table`; the operations here do the same in the same precision.
"""

from __future__ import annotations

import functools
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from disttrain.data.table.columns import Column, Table
from disttrain.training.raw_inputs import KerasInput, RawInput, are_gaps
from disttrain.training.raw_times import parts_of_time

CORE = "core"  # the name of the trained model in the wrapped one


def raw_model(
    core: keras.Model,
    table: Table,
    *,
    by_name: bool,
    read: type[RawInput] = KerasInput,
    names: Sequence[str] | None = None,
) -> keras.Model:
    """Returns a model of raw columns around a trained one.

    Its inputs, [rows] or [rows, 1] each, are named after the columns: float64 for numbers, with NaN for gaps; strings
    for categories and times, as they stand in the file. Its output is [rows, targets]; for labels that are texts, it
    is `label` [rows] and `probabilities` [rows, labels] by name.

    Args:
        core: takes float32 [rows, numbers], or columns by name.
        table: what was done to each column.
        by_name: whether the core takes columns by name.
        read: how the columns are read; another way has other inputs.
        names: of the inputs' layers; by default the columns', as far as Keras allows them.
    """
    layers = _layer_names(names or [column.name for column in table.features])
    raw = {column.name: read(column, name, table.gaps) for column, name in zip(table.features, layers, strict=True)}
    if by_name:
        given: Any = {column.name: _encoded(raw[column.name], column) for column in table.features}
    else:
        given = _joined(_encoded_columns(raw, table), "float32")
    answers = _answers(_named_core(core, given, layers), table.targets, read)
    inputs = {name: one for column in raw.values() for name, one in column.inputs().items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")  # a name that no layer may have
        return keras.Model(inputs, answers)


def _encoded_columns(raw: Mapping[str, RawInput], table: Table) -> list[Any]:
    """Returns what the columns become, float32 [rows, numbers] each; adjacent plain numbers are encoded together."""
    parts = []
    for are_numbers, found in itertools.groupby(table.features, _is_one_number):
        columns = list(found)
        if are_numbers:
            numbers = [raw[column.name].number() for column in columns]
            parts.append(_numbers(_joined(numbers, numbers[0].dtype), columns, table.gaps))
        else:
            parts += [ops.cast(_encoded(raw[column.name], column), "float32") for column in columns]
    return parts


def _joined(parts: list[Any], dtype: str) -> Any:
    return keras.layers.Concatenate(dtype=dtype)(parts) if len(parts) > 1 else parts[0]


def _is_one_number(column: Column) -> bool:
    """Returns whether a column is a number in the file, and becomes one."""
    return column.kind == "number" and not column.has_indicator


def _numbers(raw: Any, columns: Sequence[Column], gaps: Sequence[str]) -> Any:
    """Returns columns of numbers [rows, columns] filled and scaled, float32."""
    offsets, scales = (np.array([getattr(one, what) for one in columns], raw.dtype) for what in ("offset", "scale"))
    if any(one.fill is not None for one in columns):
        fills = np.array([np.nan if one.fill is None else one.fill for one in columns], raw.dtype)
        raw = ops.where(are_gaps(raw, gaps), fills, raw)
    return ops.cast((raw - offsets) / scales, "float32")


def _named_core(core: keras.Model, given: Any, taken: Sequence[str]) -> Any:
    """Returns the core's output; it gets the name CORE, unless a column has that."""
    core.name = CORE if CORE not in taken else f"{CORE}_of_model"
    return core(given)


def _layer_names(names: Sequence[str]) -> list[str]:
    """Returns a distinct name of a layer for each column: its own, where Keras allows that."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w .:()%$#+-]", "_", name) or "_"
        while plain in found or re.sub(r"_\d+$", "", plain) in _names_of_operations():
            plain += "_"
        found.append(plain)
    return found


@functools.cache
def _names_of_operations() -> frozenset[str]:
    """Returns what Keras calls operations and layers by itself, without the number behind: no input may have these."""
    classes, left = set(), [keras.Operation]
    while left:
        one = left.pop()
        classes.add(one.__name__)
        left += one.__subclasses__()
    words = (re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)) for name in classes)
    return frozenset(word.lower() for word in words)


def _encoded(raw: RawInput, column: Column) -> Any:
    """Returns what a raw column becomes: float32 [rows, its numbers], or int32 [rows, 1] for a category."""
    if column.kind == "category":
        return ops.cast(raw.index(), "int32")
    if column.parts:
        parts = parts_of_time(raw.moment(), column.parts)
        parts = ops.where(raw.is_gap(), ops.zeros_like(parts), parts)
    else:
        is_time = column.kind == "time"
        parts = raw.moment().scaled(column.offset, column.scale) if is_time else _scaled(raw.number(), column)
        if column.fill is not None:
            parts = ops.where(raw.is_gap(), ops.full_like(parts, (column.fill - column.offset) / column.scale), parts)
    if column.has_indicator:
        parts = ops.concatenate([parts, ops.cast(raw.is_gap(), parts.dtype)], axis=-1)
    return ops.cast(parts, "float32")


def _scaled(number: Any, column: Column) -> Any:
    return (number - column.offset) / column.scale


def _answers(output: Any, targets: Sequence[Column], read: type[RawInput]) -> Any:
    """Returns the outputs in the targets' own units, or the labels and their probabilities."""
    if labels := targets[0].categories:
        if output.shape[-1] == 1:  # the probability of the second label
            output = ops.concatenate([1 - output, output], axis=-1)
        return read.answers(output, labels)
    if any(target.offset for target in targets):
        offsets = [target.offset for target in targets]
        parts = [ops.cast(output[:, n : n + 1], read.dtype) + offset for n, offset in enumerate(offsets)]
        return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
    return output
