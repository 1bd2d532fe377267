"""A raw column inside a Keras model: what its numbers or texts say, by Keras's own operations and layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import keras
import numpy as np
from keras import ops

from disttrain.data.table.columns import Column
from disttrain.data.table.values import numbers_of
from disttrain.training.raw_times import TIME_LENGTH, TIME_SIGNS, Moment, moment_of_seconds, moment_of_signs

LABEL, PROBABILITIES = "label", "probabilities"  # the outputs
_FIRST = 2  # what TextVectorization calls "0": its own 0 is for NO_SIGN, and 1 for OTHER_SIGN


class RawInput(Protocol):
    """A raw column as one input of a model or several; each format has its own."""

    dtype: ClassVar[str]  # of numbers

    def __init__(self, column: Column, name: str, gaps: Sequence[str]) -> None:
        """Makes the inputs.

        Args:
            column: what is done to it.
            name: of an input's layer.
            gaps: words that stand for nothing.
        """

    def inputs(self) -> Mapping[str, Any]:
        """Returns the inputs that it adds to a model, by name."""

    def number(self) -> Any:
        """Returns a number as it is: [rows, 1]."""

    def index(self) -> Any:
        """Returns the index of a category: int32 or int64 [rows, 1]."""

    def is_gap(self) -> Any:
        """Returns whether nothing stands there: bool [rows, 1]."""

    def moment(self) -> Moment:
        """Returns a time, which is a text or seconds since 1970."""

    @staticmethod
    def answers(probabilities: Any, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the outputs of a model that gives probabilities [rows, labels]."""


class KerasInput:
    """A raw column as an input [rows, 1]: float64 with NaN for gaps, or strings."""

    dtype: ClassVar[str] = "float64"

    def __init__(self, column: Column, name: str, gaps: Sequence[str]) -> None:
        self._column = column
        self._gaps = gaps
        self._input = keras.Input((1,), name=name, dtype="string" if is_text(column) else self.dtype)

    def inputs(self) -> Mapping[str, Any]:
        """Returns the input by the column's name."""
        return {self._column.name: self._input}

    def number(self) -> Any:
        """Returns the input."""
        return self._input

    def index(self) -> Any:
        """Returns the index of a category: by its hash, or by the vocabulary."""
        column = self._column
        if not column.bins:
            return index_of_words(self._input, column, self._gaps)
        index = keras.layers.Hashing(column.bins)(self._input)
        return ops.where(self.is_gap(), ops.full_like(index, column.gap_index), index) if column.has_gaps else index

    def is_gap(self) -> Any:
        """Returns whether nothing stands there."""
        return are_gap_words(self._input, self._gaps) if is_text(self._column) else are_gaps(self._input, self._gaps)

    def moment(self) -> Moment:
        """Returns a time."""
        if not self._column.is_text:
            return moment_of_seconds(self._input)
        read = keras.layers.TextVectorization(
            standardize=None, split="character", vocabulary=list(TIME_SIGNS), output_sequence_length=TIME_LENGTH
        )
        return moment_of_signs(ops.cast(read(self._input), "int32") - _FIRST, self.dtype)

    @staticmethod
    def answers(probabilities: Any, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the likeliest label [rows] and the probabilities."""
        return {LABEL: label_of(ops.argmax(probabilities, axis=-1), labels), PROBABILITIES: probabilities}


def is_text(column: Column) -> bool:
    """Returns whether a raw column is texts."""
    return column.kind == "category" or column.is_text


def are_gaps(numbers: Any, gaps: Iterable[str]) -> Any:
    """Returns whether numbers are NaN, or stand for nothing."""
    found = ops.not_equal(numbers, numbers)  # ops.isnan is in no other format's own operations
    for number in numbers_of(gaps):
        # As an array, for Keras would take a float for a float32, also when it loads the model again.
        found = ops.logical_or(found, ops.equal(numbers, np.array([number], numbers.dtype)))
    return found


def are_gap_words(texts: Any, gaps: Iterable[str]) -> Any:
    """Returns whether texts stand for nothing."""
    return _lookup(list(dict.fromkeys(["", *gaps])))(texts) > 0


def index_of_words(texts: Any, column: Column, gaps: Iterable[str]) -> Any:
    """Returns the indices of texts in a vocabulary: int64."""
    words = gap_words(column, gaps)
    known = len(column.categories)
    index = _lookup([*column.categories, *words])(texts)
    return ops.where(index > known, ops.full_like(index, column.gap_index), index) if words else index


def gap_words(column: Column, gaps: Iterable[str]) -> list[str]:
    """Returns the words that stand for a gap in a column of categories; none of its vocabulary."""
    if not (column.has_gaps or column.gap_as is not None):
        return []
    return [word for word in dict.fromkeys(["", *gaps]) if word not in column.categories]


def label_of(index: Any, labels: Sequence[str]) -> Any:
    """Returns the label of each index: strings [rows] of int64 [rows]."""
    words = keras.layers.StringLookup(
        vocabulary=list(labels), num_oov_indices=0, oov_token=_unknown(labels), mask_token=None, invert=True
    )
    return words(index)


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
