"""A function that XLA compiles or, if it cannot compile the model, that runs as a graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from disttrain.training.bounds import UncheckedError


class Compiled:
    """A function compiled by XLA, which runs as a graph instead if XLA cannot compile its model."""

    def __init__(self, make: Callable[[bool], Callable[..., Any]], *, use_xla: bool) -> None:
        """Takes `make`, which returns the function: with XLA if called with True, else without."""
        self._make = make
        self._run = make(use_xla)
        self._may_fall_back = use_xla

    def __call__(self, *arguments: tf.Tensor) -> Any:
        """Calls the function, as a graph from the first time that XLA refuses it."""
        try:
            result = self._run(*arguments)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, UncheckedError) as error:
            if not self._may_fall_back:
                raise
            reason = "it looks something up inside a tf.function of its own"
            if not isinstance(error, UncheckedError):
                reason = str(error.message).strip().splitlines()[0]
            warnings.warn(f"XLA cannot compile this model, so it runs as a graph, slower: {reason}", stacklevel=2)
            self._run = self._make(False)
            result = self._run(*arguments)
        self._may_fall_back = False
        return result
