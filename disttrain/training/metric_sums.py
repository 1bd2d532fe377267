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
    """Values as callbacks get them: vectors as arrays."""
    return {name: np.asarray(value) if isinstance(value, list) else value for name, value in values.items()}


def values_of_one_number(values: Mapping[str, Value]) -> dict[str, float]:
    """Those that can be compared with each other: by which the best checkpoint may stay."""
    return {name: value for name, value in values.items() if not isinstance(value, list)}


class MetricSums:
    """Sums of each metric variable over this worker's steps.

    Compiled calls keep them as float32 from one superbatch's begin to its end; beyond that they are added as float64.
    """

    def __init__(self, model: keras.Model, replicas: Replicas) -> None:
        """The model's metrics are built."""
        self._model = model
        self._replicas = replicas
        self.reset()

    def reset(self) -> None:
        """Forgets what the metrics have seen."""
        self._model.reset_metrics()
        self._done: Sums = [np.zeros(v.shape, np.float64) for v in self._model.metrics_variables]
        self._partial: States = []  # what the calls of a superbatch that is not done have added

    @property
    def sums(self) -> Sums:
        """One a variable, of the variable's shape: they add up over workers."""
        if not self._partial:
            return self._done
        return [done + states.sum(axis=0) for done, states in zip(self._done, self._partial, strict=True)]

    def see(self, states: Sequence[Any]) -> None:
        """Takes the metrics' states at a call's end, values of the replicas: what came since the superbatch's begin."""
        self._partial = [np.stack([own.numpy() for own in self._replicas.results(state)]) for state in states]

    def fold(self) -> None:
        """A superbatch is done: the next one's states begin at nothing."""
        self._done, self._partial = self.sums, []

    def capture(self) -> tuple[Sums, States]:
        """The sums over the superbatches that are done, and the metrics' states since.

        Of the states there are none, or one a variable, [replicas, ...].
        """
        return self._done, self._partial

    def restore(self, done: Sums, partial: Sequence[npt.NDArray[Any]] = ()) -> None:
        """Puts back what `capture` gave."""
        self._done, self._partial = done, list(partial)
        for variable, states in zip(self._model.metrics_variables, self._partial, strict=False):
            self._replicas.write(variable, states)

    def values_of(self, sums: Sums) -> dict[str, Value]:
        """The metrics' values for sums that were added up over all workers; a vector's as a list, as JSON keeps it."""
        for variable, total in zip(self._model.metrics_variables, sums, strict=True):
            self._replicas.write(variable, np.stack([total] * self._replicas.count))
        results = self._replicas.run(self._model.get_metrics_result)
        own = {name: np.asarray(self._replicas.results(value)[0]) for name, value in results.items() if name != "loss"}
        values: dict[str, Value] = {
            name: value.astype(np.float64).tolist() if value.ndim else float(value) for name, value in own.items()
        }
        self._model.reset_metrics()
        return values
