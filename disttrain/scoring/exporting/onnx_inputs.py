"""Reads the texts of raw columns in ONNX: by nodes before the network, whose own inputs are then numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
from onnx import NodeProto, TensorProto, helper

from disttrain.data.table.columns import OUT_OF_VOCABULARY, Column
from disttrain.scoring.exporting.exported import check_not_hashed
from disttrain.training.raw_inputs import PROBABILITIES, are_gaps, gap_words, is_text
from disttrain.training.raw_times import (
    NO_SIGN,
    OTHER_SIGN,
    TIME_LENGTH,
    TIME_SIGNS,
    Moment,
    moment_of_seconds,
    moment_of_signs,
)

ML = "ai.onnx.ml"
RUNTIME = "com.microsoft"  # onnxruntime's own operations
_BETWEEN = "\0"  # stands in no column's name


class OnnxInput:
    """A raw column: numbers float64 [rows, 1]; of texts, what they say as inputs of the network.

    These are int64: `index` and `gap` [rows, 1], and `signs` [rows, TIME_LENGTH].
    """

    dtype: ClassVar[str] = "float64"

    def __init__(self, column: Column, name: str, gaps: Sequence[str]) -> None:
        check_not_hashed(column, "onnx", "ONNX")
        self._column = column
        self._name = name
        self._gaps = gaps
        self._inputs: dict[str, Any] = {}

    def inputs(self) -> Mapping[str, Any]:
        """Returns the inputs that were asked for; `nodes_of` reads their names."""
        return self._inputs

    def number(self) -> Any:
        """Returns the input of a number."""
        return self._input(self._column.name, self._name, 1, self.dtype)

    def index(self) -> Any:
        """Returns the index of a category."""
        return self._reading("index", 1)

    def is_gap(self) -> Any:
        """Returns whether nothing stands there."""
        return self._reading("gap", 1) > 0 if is_text(self._column) else are_gaps(self.number(), self._gaps)

    def moment(self) -> Moment:
        """Returns a time."""
        if not self._column.is_text:
            return moment_of_seconds(self.number())
        return moment_of_signs(keras.ops.cast(self._reading("signs", TIME_LENGTH), "int32"), self.dtype)

    @staticmethod
    def answers(probabilities: Any, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the probabilities; `label_nodes` makes the label of them."""
        return {PROBABILITIES: probabilities}

    def _reading(self, what: str, width: int) -> Any:
        return self._input(f"{what}{_BETWEEN}{self._column.name}", f"{self._name}.{what}", width, "int64")

    def _input(self, name: str, layer: str, width: int, dtype: str) -> Any:
        if name not in self._inputs:
            self._inputs[name] = keras.Input((width,), name=layer, dtype=dtype)
        return self._inputs[name]


def nodes_of(name: str, into: str, columns: Mapping[str, Column], gaps: Sequence[str]) -> list[NodeProto]:
    """Returns the nodes that make an input of the network of a column.

    Args:
        name: of the input; see `OnnxInput.inputs`.
        into: what the network calls it.
        columns: by name.
        gaps: words that stand for nothing.
    """
    what, between, column = name.partition(_BETWEEN)
    if not between:
        return [helper.make_node("Identity", [name], [into])]
    if what == "index":
        return [_lookup(column, into, _indices(columns[column], gaps), OUT_OF_VOCABULARY)]
    if what == "gap":
        return [_lookup(column, into, dict.fromkeys(["", *gaps], 1), 0)]
    return _signs(column, into)


def label_nodes(probabilities: str, label: str, labels: Sequence[str]) -> list[NodeProto]:
    """Returns the nodes that make the label [rows] of probabilities [rows, labels]."""
    index = f"{label}/index"
    words = helper.make_node(
        "LabelEncoder", [index], [label], domain=ML, keys_int64s=list(range(len(labels))), values_strings=list(labels)
    )
    return [helper.make_node("ArgMax", [probabilities], [index], axis=-1, keepdims=0), words]


def _indices(column: Column, gaps: Sequence[str]) -> dict[str, int]:
    known = {text: number for number, text in enumerate(column.categories, start=1)}
    return {**dict.fromkeys(gap_words(column, gaps), column.gap_index), **known}


def _lookup(text: str, into: str, numbers: Mapping[str, int], default: int) -> NodeProto:
    keys, values = list(numbers) or ["\0"], list(numbers.values()) or [default]
    return helper.make_node(
        "LabelEncoder", [text], [into], domain=ML, keys_strings=keys, values_int64s=values, default_int64=default
    )


def _signs(text: str, into: str) -> list[NodeProto]:
    """Returns nodes that split texts [rows, 1] into characters, whose places in TIME_SIGNS are padded and cut."""
    places = {"": NO_SIGN, **{sign: place for place, sign in enumerate(TIME_SIGNS)}}
    constants = {"one": [1], "zero": [0], "length": [TIME_LENGTH], "pads": [0, 0, 0, TIME_LENGTH]}

    def of(*names: str) -> list[str]:
        return [f"{into}/{name}" for name in names]

    def constant(name: str, values: Sequence[int]) -> NodeProto:
        tensor = helper.make_tensor(name, TensorProto.INT64, [len(values)], list(values))
        return helper.make_node("Constant", [], of(name), value=tensor)

    padding = helper.make_tensor("padding", TensorProto.INT64, [], [NO_SIGN])
    return [
        *(constant(name, values) for name, values in constants.items()),
        helper.make_node("Constant", [], of("padding"), value=padding),
        helper.make_node(
            *("Tokenizer", [text], of("split"), "", "", RUNTIME), mark=0, mincharnum=1, pad_value="", separators=[""]
        ),
        helper.make_node("Squeeze", of("split", "one"), of("characters")),  # of [rows, 1, characters]
        _lookup(f"{into}/characters", f"{into}/places", places, OTHER_SIGN),
        helper.make_node("Pad", of("places", "pads", "padding"), of("padded")),
        helper.make_node("Slice", of("padded", "zero", "length", "one"), [into]),
    ]
