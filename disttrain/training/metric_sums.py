"""Metric sums, accumulated across superbatches, replicas and workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from disttrain.distributed.replicas import Replicas

Sums = list[npt.NDArray[np.float64]]
States = list[npt.NDArray[Any]]
Value = float | list[Any]  # of a metric: a number, or a list, or a list of lists


def as_logs(values: Mapping[str, Value]) -> dict[str, Any]:
    """Returns values as callbacks get them: lists become arrays."""
    return {name: np.asarray(value) if isinstance(value, list) else value for name, value in values.items()}


def values_of_one_number(values: Mapping[str, Value]) -> dict[str, float]:
    """Returns the values that are single numbers, by which the best checkpoint can be chosen."""
    return {name: value for name, value in values.items() if not isinstance(value, list)}


class MetricSums:
    """Sums of each metric variable over this worker's steps.

    Supersteps accumulate them as float32 within a superbatch; the sums over superbatches are float64.
    """

    def __init__(self, model: keras.Model, replicas: Replicas) -> None:
        """Takes a model whose metrics are built."""
        self._model = model
        self._replicas = replicas
        self.reset()

    def reset(self) -> None:
        """Sets the sums and the model's metrics to zero."""
        self._model.reset_metrics()
        self._done: Sums = [np.zeros(v.shape, np.float64) for v in self._model.metrics_variables]
        self._partial: States = []  # what the supersteps of an unfinished superbatch have added

    @property
    def sums(self) -> Sums:
        """One array for each metric variable, of its shape; those of several workers can be added up."""
        if not self._partial:
            return self._done
        return [done + states.sum(axis=0) for done, states in zip(self._done, self._partial, strict=True)]

    def see(self, states: Sequence[Any]) -> None:
        """Records the replicas' metric states at a superstep's end; they count from the start of the superbatch."""
        self._partial = [np.stack([own.numpy() for own in self._replicas.results(state)]) for state in states]

    def fold(self) -> None:
        """Adds a finished superbatch to the sums; the next one's states start from zero."""
        self._done, self._partial = self.sums, []

    def capture(self) -> tuple[Sums, States]:
        """Returns the sums over the finished superbatches, and the metrics' states since.

        There are either no states, or one for each variable, [replicas, ...].
        """
        return self._done, self._partial

    def restore(self, done: Sums, partial: Sequence[npt.NDArray[Any]] = ()) -> None:
        """Restores what `capture` returned."""
        self._done, self._partial = done, list(partial)
        for variable, states in zip(self._model.metrics_variables, self._partial, strict=False):
            self._replicas.write(variable, states)

    def values_of(self, sums: Sums) -> dict[str, Value]:
        """Returns the metrics' values for sums over all workers; a vector becomes a list, as in JSON."""
        for variable, total in zip(self._model.metrics_variables, sums, strict=True):
            self._replicas.write(variable, np.stack([total] * self._replicas.count))
        results = self._replicas.run(self._model.get_metrics_result)
        own = {name: np.asarray(self._replicas.results(value)[0]) for name, value in results.items() if name != "loss"}
        values: dict[str, Value] = {
            name: value.astype(np.float64).tolist() if value.ndim else float(value) for name, value in own.items()
        }
        self._model.reset_metrics()
        return values
