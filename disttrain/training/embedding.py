"""Layers for the categories of a dense network: one-hot vectors of few, embeddings of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from disttrain.data.table.columns import Column

MAX_ONE_HOT = 32  # indices of a column: among few rows, an embedding of as many learns more slowly
MAX_WIDTH = 600


def embedding_width(num_tokens: int, *, is_hashed: bool) -> int:
    """Returns the numbers that a category becomes: min(600, 1.6 n^0.56), fastai's rule for tables (`emb_sz_rule`).

    Of a hashed one, which has as many indices as the user likes, it is n^0.25 (Google Developers Blog, "Introducing
    TensorFlow Feature Columns", 2017).
    """
    if is_hashed:
        return int(num_tokens**0.25 + 0.5)
    return min(MAX_WIDTH, int(1.6 * num_tokens**0.56 + 0.5))


def embedded(rows: Any, columns: Sequence[Column]) -> Any:
    """Returns rows [rows, features] as float32 [rows, numbers]: each category as a vector, numbers as they are."""
    parts, start, numbers = [], 0, 0
    for column in columns:
        stop = start + len(column.slots)
        if column.kind == "category":
            if numbers < start:
                parts.append(rows[:, numbers:start])
            parts.append(_vector(rows[:, start], column))
            numbers = stop
        start = stop
    if numbers < start:
        parts.append(rows[:, numbers:start])
    return keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]


def _vector(indices: Any, column: Column) -> Any:
    size = column.num_tokens
    if size <= MAX_ONE_HOT:
        return keras.layers.CategoryEncoding(size, output_mode="one_hot")(keras.ops.cast(indices, "int32"))
    return keras.layers.Embedding(size, embedding_width(size, is_hashed=column.bins > 0))(
        keras.ops.cast(indices, "int32")
    )
