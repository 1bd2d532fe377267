"""A raw column inside a Keras model: what its numbers or texts say, by Keras's own operations and layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from disttrain.data.table.columns import Column
from disttrain.data.table.values import numbers_of
from disttrain.training.raw_times import TIME_LENGTH, TIME_SIGNS, Moment, moment_of_seconds, moment_of_signs

LABEL, PROBABILITIES = "label", "probabilities"  # the outputs
_FIRST = 2  # the index of "0": TextVectorization's 0 is for padding and 1 for any other character


class RawInput:
    """A raw column as an input [rows, 1]: float64 with NaN for gaps, or strings; other formats have other inputs."""

    dtype: ClassVar[str] = "float64"  # of numbers

    def __init__(self, column: Column, name: str, gaps: Sequence[str]) -> None:
        """Makes the input.

        Args:
            column: what is done to it.
            name: of the input's layer.
            gaps: words that stand for nothing.
        """
        self._column = column
        self._gaps = gaps
        self._input = keras.Input((1,), name=name, dtype="string" if is_text(column) else self.dtype)

    def inputs(self) -> Mapping[str, Any]:
        """Returns the inputs that it adds to a model, by name."""
        return {self._column.name: self._input}

    def number(self) -> Any:
        """Returns a number as it is."""
        return self._input

    def index(self) -> Any:
        """Returns the index of a category: int32 or int64."""
        column = self._column
        if column.bins:
            index = keras.layers.Hashing(column.bins)(self._input)
            if column.has_gaps:
                index = ops.where(self.is_gap(), ops.full_like(index, column.gap_index), index)
            return index
        words = gap_words(column, self._gaps)
        known = len(column.categories)
        index = _lookup([*column.categories, *words])(self._input)
        if words:
            index = ops.where(index > known, ops.full_like(index, column.gap_index), index)
        return index

    def is_gap(self) -> Any:
        """Returns whether nothing stands there: bool."""
        if is_text(self._column):
            return _lookup(list(dict.fromkeys(["", *self._gaps])))(self._input) > 0
        return are_gaps(self._input, self._gaps)

    def moment(self) -> Moment:
        """Returns a time, which is a text or seconds since 1970."""
        if self._column.is_text:
            return moment_of_signs(self.signs(), self.dtype)
        return moment_of_seconds(self._input)

    def signs(self) -> Any:
        """Returns the characters of a time, int32 [rows, TIME_LENGTH]: places in TIME_SIGNS, or less than 0."""
        read = keras.layers.TextVectorization(
            standardize=None, split="character", vocabulary=list(TIME_SIGNS), output_sequence_length=TIME_LENGTH
        )
        return ops.cast(read(self._input), "int32") - _FIRST

    @staticmethod
    def answers(probabilities: Any, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the outputs for probabilities [rows, labels]: these, and the likeliest label [rows]."""
        return {LABEL: label_of(ops.argmax(probabilities, axis=-1), labels), PROBABILITIES: probabilities}


def is_text(column: Column) -> bool:
    """Returns whether a raw column is texts."""
    return column.kind == "category" or column.is_text


def are_gaps(raw: Any, gaps: Iterable[str]) -> Any:
    """Returns whether numbers are NaN, or stand for nothing."""
    found = ops.not_equal(raw, raw)
    for number in numbers_of(gaps):
        found = ops.logical_or(found, ops.equal(raw, number))
    return found


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
