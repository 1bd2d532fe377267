"""Raw columns as TensorFlow Lite takes them, by its own operations, which know no float64 and no parts of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from disttrain.data.table.columns import Column
from disttrain.data.table.values import numbers_of
from disttrain.scoring.exporting.exported import check_not_hashed
from disttrain.training.raw_inputs import LABEL, PROBABILITIES, are_gaps, index_of_words, label_of
from disttrain.training.raw_times import NO_SIGN, OTHER_SIGN, TIME_LENGTH, TIME_SIGNS, Moment, moment_of_signs

GAP_OF_TIME = -(1 << 63)  # of an int64
_DAY_S = 86_400
_PLACES = np.full(256, OTHER_SIGN, np.int32)  # of each byte
_PLACES[0] = NO_SIGN
_PLACES[list(TIME_SIGNS.encode())] = np.arange(len(TIME_SIGNS))


class LiteInput:
    """A raw column as an input of its own type.

    A number is float32 [rows, 1], with NaN for a gap. A category is a string [rows, 1]. A time that is a text is uint8
    [rows, TIME_LENGTH]: its bytes, and zeros behind them. One that is a number is int64 [rows, 1]: whole seconds since
    1970, with GAP_OF_TIME for a gap.
    """

    dtype: ClassVar[str] = "float32"

    def __init__(self, column: Column, name: str, gaps: Sequence[str]) -> None:
        check_not_hashed(column, "tflite", "TensorFlow Lite")
        self._column = column
        self._gaps = gaps
        types = {"category": "string", "time": "uint8" if column.is_text else "int64"}
        width = TIME_LENGTH if column.is_text else 1
        self._input = keras.Input((width,), name=name, dtype=types.get(column.kind, self.dtype))

    def inputs(self) -> Mapping[str, Any]:
        """Returns the input by the column's name."""
        return {self._column.name: self._input}

    def number(self) -> Any:
        """Returns the input."""
        return self._input

    def index(self) -> Any:
        """Returns the index of a category, with a shape, which TensorFlow Lite's lookup does not tell."""
        return ops.reshape(index_of_words(self._input, self._column, self._gaps), (-1, 1))

    def is_gap(self) -> Any:
        """Returns whether nothing stands there."""
        if self._column.is_text:
            words = np.stack([_padded(word) for word in dict.fromkeys(["", *self._gaps])]).astype(np.int32)
            same = ops.equal(ops.expand_dims(ops.cast(self._input, "int32"), 1), words)  # [rows, words, TIME_LENGTH]
            return ops.any(ops.all(same, axis=-1), axis=-1, keepdims=True)
        if self._column.kind == "time":
            found = ops.equal(self._input, GAP_OF_TIME)
            for number in numbers_of(self._gaps):
                found = ops.logical_or(found, ops.equal(self._input, math.floor(number)))
            return found
        return are_gaps(self._input, self._gaps)

    def moment(self) -> Moment:
        """Returns a time; of seconds since 1970, the day is exact up to the year 2038, and rounded to it beyond."""
        if self._column.is_text:
            return moment_of_signs(ops.take(_PLACES, ops.cast(self._input, "int32"), axis=0), self.dtype)
        seconds = ops.mod(self._input, _DAY_S)
        days = ops.round(ops.cast(self._input - seconds, self.dtype) / float(_DAY_S))
        seconds = ops.cast(seconds, self.dtype)
        return Moment(days, seconds, ops.zeros_like(seconds))

    @staticmethod
    def answers(probabilities: Any, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the likeliest label [rows] and the probabilities."""
        return {LABEL: label_of(_Likeliest()(probabilities), labels), PROBABILITIES: probabilities}


class _Likeliest(keras.layers.Layer):  # type: ignore[misc]
    """The place of the largest number of each row; Keras's own argmax looks at bits, which TensorFlow Lite cannot."""

    def call(self, rows: Any) -> Any:
        return tf.argmax(rows, axis=-1, output_type=tf.int64)


def as_given(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Returns a column of raw rows as an input of this type takes it: float64, or texts, [rows, 1] or a matrix."""
    if dtype == "uint8":
        return np.array([_padded(text) for text in values.ravel()])
    if dtype == "string":
        return np.array([text.encode() for text in values.ravel()], object).reshape(values.shape)
    if dtype == "int64":
        return np.where(np.isnan(values), GAP_OF_TIME, np.nan_to_num(np.floor(values))).astype(np.int64)
    return values.astype(dtype)


def _padded(text: str) -> npt.NDArray[np.uint8]:
    found = np.zeros(TIME_LENGTH, np.uint8)
    content = text.encode()[:TIME_LENGTH]
    found[: len(content)] = list(content)
    return found
