"""Wraps a trained model: it takes a table's raw columns by name, and answers in the target's own units or labels.

Everything in it is Keras's own: any program that has Keras can load it, in safe mode, without disttrain. What the model
was trained on came out of `disttrain.data.table`; the operations here do the same in the same precision.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from disttrain.data.table.columns import Column, Table
from disttrain.data.table.values import numbers_of
from disttrain.training.raw_times import parts_of_time, seconds_of

CORE = "core"  # the name of the trained model in the wrapped one
# What Keras calls the operations and layers here by itself; an input of that name gets another.
_TAKEN = re.compile(
    "(subtract|true_divide|divide|multiply|add|cast|where|isnan|full_like|zeros_like|floor|sin|cos|greater|greater_equal"
    "|less_equal|equal|logical_and|logical_or|get_item|concatenate|arg_?max|string_lookup|hashing|text_vectorization)"
    r"(_\d+)?"
)
LABEL, PROBABILITIES = "label", "probabilities"


def raw_model(core: keras.Model, table: Table, *, by_name: bool) -> keras.Model:
    """Returns a model of raw columns around a trained one.

    Its inputs, [rows] or [rows, 1] each, are named after the columns: float64 for numbers, with NaN for gaps; strings
    for categories and times, as they stand in the file. Its output is [rows, targets]; for labels that are texts, it
    is `label` [rows] and `probabilities` [rows, labels] by name.

    Args:
        core: takes float32 [rows, numbers], or columns by name.
        table: what was done to each column.
        by_name: whether the core takes columns by name.
    """
    names = _layer_names([column.name for column in table.features])
    inputs = {}
    for column, name in zip(table.features, names, strict=True):
        is_text = column.kind == "category" or column.is_text
        inputs[column.name] = keras.Input((1,), name=name, dtype="string" if is_text else "float64")
    if by_name:
        given: Any = {column.name: _encoded(inputs[column.name], column, table.gaps) for column in table.features}
    else:
        given = _joined(_encoded_columns(inputs, table), "float32")
    answers = _answers(_named_core(core, given, names), table.targets)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")  # a name that no layer may have
        return keras.Model(inputs, answers)


def _encoded_columns(inputs: Mapping[str, Any], table: Table) -> list[Any]:
    """Returns what the columns become, float32 [rows, numbers] each; adjacent plain numbers are encoded together."""
    parts = []
    for are_numbers, found in itertools.groupby(table.features, _is_one_number):
        columns = list(found)
        if are_numbers:
            parts.append(_numbers(_joined([inputs[column.name] for column in columns], "float64"), columns, table.gaps))
        else:
            parts += [ops.cast(_encoded(inputs[column.name], column, table.gaps), "float32") for column in columns]
    return parts


def _joined(parts: list[Any], dtype: str) -> Any:
    return keras.layers.Concatenate(dtype=dtype)(parts) if len(parts) > 1 else parts[0]


def _is_one_number(column: Column) -> bool:
    """Returns whether a column is a number in the file, and becomes one."""
    return column.kind != "category" and not (column.is_text or column.parts or column.has_indicator)


def _numbers(raw: Any, columns: Sequence[Column], gaps: Sequence[str]) -> Any:
    """Returns columns of numbers [rows, columns] filled and scaled, float32."""
    offsets, scales = (np.array([getattr(one, what) for one in columns]) for what in ("offset", "scale"))
    if any(one.fill is not None for one in columns):
        fills = np.array([np.nan if one.fill is None else one.fill for one in columns])
        raw = ops.where(_are_gaps(raw, gaps), fills, raw)
    return ops.cast((raw - offsets) / scales, "float32")


def _are_gaps(raw: Any, gaps: Sequence[str]) -> Any:
    """Returns whether numbers are NaN, or stand for nothing."""
    found = ops.isnan(raw)
    for number in numbers_of(gaps):
        found = ops.logical_or(found, ops.equal(raw, number))
    return found


def _named_core(core: keras.Model, given: Any, taken: Sequence[str]) -> Any:
    """Returns the core's output; it gets the name CORE, unless a column has that."""
    core.name = CORE if CORE not in taken else f"{CORE}_of_model"
    return core(given)


def _layer_names(names: Sequence[str]) -> list[str]:
    """Returns a distinct name of a layer for each column: its own, where Keras allows that."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w .:()%$#+-]", "_", name) or "_"
        while plain in found or _TAKEN.fullmatch(plain):
            plain += "_"
        found.append(plain)
    return found


def _encoded(raw: Any, column: Column, gaps: Sequence[str]) -> Any:
    """Returns what a raw column becomes: float32 [rows, its numbers], or int32 [rows, 1] for a category."""
    if column.kind == "category":
        return _index(raw, column, gaps)
    if column.is_text:
        is_gap = _is_gap(raw, gaps)
        numbers = seconds_of(raw)
    else:
        is_gap = _are_gaps(raw, gaps)
        numbers = raw
    if column.parts:
        parts = parts_of_time(numbers, column.parts)
        parts = ops.where(is_gap, ops.zeros_like(parts), parts)
    else:
        if column.fill is not None:
            numbers = ops.where(is_gap, ops.full_like(numbers, column.fill), numbers)
        parts = (numbers - column.offset) / column.scale
    if column.has_indicator:
        parts = ops.concatenate([parts, ops.cast(is_gap, parts.dtype)], axis=-1)
    return ops.cast(parts, "float32")


def _index(raw: Any, column: Column, gaps: Sequence[str]) -> Any:
    if column.bins:
        index = keras.layers.Hashing(column.bins)(raw)
        if column.has_gaps:
            index = ops.where(_is_gap(raw, gaps), ops.full_like(index, column.gap_index), index)
        return ops.cast(index, "int32")
    known = list(column.categories)
    treated = column.has_gaps or column.gap_as is not None
    words = [word for word in dict.fromkeys(["", *gaps]) if word not in known] if treated else []
    index = _lookup([*known, *words])(raw)
    if treated:
        index = ops.where(index > len(known), ops.full_like(index, column.gap_index), index)
    return ops.cast(index, "int32")


def _is_gap(raw: Any, gaps: Sequence[str]) -> Any:
    return _lookup(list(dict.fromkeys(["", *gaps])))(raw) > 0


def _lookup(words: list[str]) -> keras.layers.StringLookup:
    """Returns a layer that gives 1 for the first of these words, and 0 for any other text."""
    words = words or ["\0"]  # a vocabulary may not be empty
    return keras.layers.StringLookup(vocabulary=words, oov_token=_unknown(words), mask_token=None)


def _unknown(words: Sequence[str]) -> str:
    """Returns a name for what is not in a vocabulary that is none of its words."""
    unknown = "[UNK]"
    while unknown in words:
        unknown = f"[{unknown}]"
    return unknown


def _answers(output: Any, targets: Sequence[Column]) -> Any:
    """Returns the outputs in the targets' own units, or the labels and their probabilities."""
    if labels := targets[0].categories:
        index = ops.argmax(output, axis=-1) if output.shape[-1] > 1 else ops.cast(output[:, 0] > 0.5, "int64")
        words = keras.layers.StringLookup(
            vocabulary=list(labels), num_oov_indices=0, oov_token=_unknown(labels), mask_token=None, invert=True
        )
        if output.shape[-1] == 1:  # the probability of the second label
            output = ops.concatenate([1 - output, output], axis=-1)
        return {LABEL: words(index), PROBABILITIES: output}
    if any(target.offset for target in targets):
        offsets = [target.offset for target in targets]
        parts = [ops.cast(output[:, n : n + 1], "float64") + offset for n, offset in enumerate(offsets)]
        return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
    return output
