"""Raw columns as TensorFlow Lite takes them, by its own operations, which know no float64 and no parts of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from disttrain.data.table.columns import Column
from disttrain.errors import UsageError
from disttrain.training.raw_inputs import LABEL, PROBABILITIES, RawInput, are_gaps, label_of
from disttrain.training.raw_times import TIME_LENGTH, TIME_SIGNS, Moment, moment_of_signs

GAP_OF_TIME = -(1 << 63)  # of an int64
_DAY_S = 86_400
_PADDING, _OTHER = -2, -1  # as in raw_inputs.py
_PLACES = np.full(256, _OTHER, np.int32)
_PLACES[0] = _PADDING
_PLACES[list(TIME_SIGNS.encode())] = np.arange(len(TIME_SIGNS))


class LiteInput(RawInput):
    """A raw column as an input of its own type.

    A number is float32 [rows, 1], with NaN for a gap. A category is a string [rows, 1]. A time that is a text is uint8
    [rows, TIME_LENGTH]: its bytes, and zeros behind them. One that is a number is int64 [rows, 1]: whole seconds since
    1970, with GAP_OF_TIME for a gap.
    """

    dtype = "float32"

    def __init__(self, column: Column, name: str, gaps: Sequence[str]) -> None:
        if column.bins:
            raise UsageError(
                f"--format tflite: '{column.name}' is a hashed category, and TensorFlow Lite cannot hash texts; export "
                f"a savedmodel, or train with --kinds {column.name}=category"
            )
        super().__init__(column, name, gaps)
        if column.is_text:
            self._input = keras.Input((TIME_LENGTH,), name=name, dtype="uint8")
        elif column.kind == "time":
            self._input = keras.Input((1,), name=name, dtype="int64")

    def index(self) -> Any:
        """Returns the index of a category: int64 [rows, 1], which TensorFlow Lite has to be told."""
        return ops.reshape(super().index(), (-1, 1))

    def is_gap(self) -> Any:
        """Returns whether nothing stands there: bool [rows, 1]."""
        column = self._column
        if column.is_text:
            words = np.stack([_padded(word) for word in dict.fromkeys(["", *self._gaps])]).astype(np.int32)
            same = ops.equal(ops.expand_dims(ops.cast(self._input, "int32"), 1), words)  # [rows, words, TIME_LENGTH]
            return ops.any(ops.all(same, axis=-1), axis=-1, keepdims=True)
        if column.kind == "time":
            return ops.equal(self._input, GAP_OF_TIME)
        return are_gaps(self._input, self._gaps) if column.kind == "number" else super().is_gap()

    def moment(self) -> Moment:
        """Returns a time, in parts that float32 holds exactly up to the year 2038, and nearly beyond."""
        if self._column.is_text:
            return moment_of_signs(ops.take(_PLACES, ops.cast(self._input, "int32"), axis=0), self.dtype)
        seconds = ops.mod(self._input, _DAY_S)
        days = ops.round(ops.cast(self._input - seconds, self.dtype) / float(_DAY_S))
        seconds = ops.cast(seconds, self.dtype)
        return Moment(days, seconds, ops.zeros_like(seconds))

    @staticmethod
    def answers(probabilities: Any, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the likeliest label [rows] and the probabilities [rows, labels]."""
        return {LABEL: label_of(_Likeliest()(probabilities), labels), PROBABILITIES: probabilities}


class _Likeliest(keras.layers.Layer):  # type: ignore[misc]
    """The place of the largest number of each row; Keras's own argmax looks at bits, which TensorFlow Lite cannot."""

    def call(self, rows: Any) -> Any:
        return tf.argmax(rows, axis=-1, output_type=tf.int64)


def as_given(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Returns a column of raw rows as an input of this type takes it: float64, or texts, [rows, 1] or a matrix."""
    if dtype == "uint8":
        return np.stack([_padded(text) for text in values.ravel()])
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
