"""Runs a trained model on encoded rows: the forward pass alone, compiled, on all devices of a worker."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from disttrain.data.row_source import Floats
from disttrain.distributed.replicas import Replicas
from disttrain.errors import UsageError
from disttrain.training.compiled import Compiled
from disttrain.training.inputs import Inputs

CHUNK_BYTES = 4 << 20  # of rows that a device gets at a time
LEAST_ROWS, MOST_ROWS = 256, 1 << 16


class Forward:
    """A model on this worker's devices, which takes any number of rows, padded to equal chunks."""

    def __init__(self, model: keras.Model, replicas: Replicas, inputs: Inputs) -> None:
        """Takes a built model, whose variables each replica has."""
        self._model = model
        self._replicas = replicas
        self._inputs = inputs
        self._width = inputs.num_features
        self.chunk_rows = min(max(CHUNK_BYTES // (4 * self._width), LEAST_ROWS), MOST_ROWS)
        self._run = Compiled(self._make, use_xla=replicas.count == 1)

    @functools.cached_property
    def num_outputs(self) -> int:
        """Returns how many numbers the model gives for a row."""
        return int(self(np.zeros((1, self._width), np.float32)).shape[1])

    def __call__(self, rows: Floats) -> Floats:
        """Returns what the model gives for rows, float32 [rows, numbers] to [rows, outputs]; more columns are ignored.

        Raises:
            UsageError: for a model that gives something else than a row of numbers for each row.
        """
        count, size = self._replicas.count, self.chunk_rows
        parts = []
        for start in range(0, len(rows), count * size):
            chunk = rows[start : start + count * size, : self._width]
            padded = chunk
            if len(chunk) < count * size:
                padded = np.zeros((count * size, self._width), np.float32)
                padded[: len(chunk)] = chunk
            results = self._replicas.results(self._run(self._replicas.copy(np.split(padded, count))))
            parts.append(np.concatenate([np.asarray(one) for one in results])[: len(chunk)])
        outputs = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
        if outputs.ndim == 1:
            outputs = outputs[:, np.newaxis]
        if outputs.ndim != 2:
            raise UsageError(f"the model gives {list(outputs.shape[1:])} for a row, expected a row of numbers")
        return outputs

    def _make(self, use_xla: bool) -> Any:
        def step(rows: Any) -> Any:
            return tf.cast(self._model(self._inputs.features(rows), training=False), tf.float32)

        def run(value: Any) -> Any:
            return self._replicas.run(step, value)

        # Partial: TensorFlow takes functions of the same lines for one that is traced too often.
        return tf.function(partial(run), jit_compile=use_xla)
