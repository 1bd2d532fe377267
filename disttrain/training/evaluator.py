"""Evaluates a model on rows that are not trained on: the loss and the metrics, over all workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf
from keras.callbacks import CallbackList

from disttrain.activity import activity, touch
from disttrain.data.superbatches import Feed, Superbatch
from disttrain.distributed.backend import Backend
from disttrain.training.callbacks import has_own
from disttrain.training.engine import Engine
from disttrain.training.metric_sums import Value, as_logs
from disttrain.training.refusals import refusals_located


class Evaluator:
    """Evaluates on this worker's shards of `feed`; all workers make and call it together."""

    def __init__(self, engine: Engine, backend: Backend, feed: Feed, callbacks: CallbackList) -> None:
        """
        Args:
            engine: of the model.
            backend: whose workers evaluate.
            feed: the rows.
            callbacks: hear of it as from Keras's `evaluate`.
        """
        self._engine = engine
        self._backend = backend
        self._feed = feed
        self._callbacks = callbacks
        self._tells: bool | None = None  # whether any worker's callbacks want the values after each superbatch

    def compile(self) -> None:
        """Compiles the superstep ahead of the first evaluation."""
        shape = self._feed.full_shape
        if shape and shape[1]:
            self._engine.compile(shape, training=False, rows_of_replicas=self._feed.plan.rows_of_replicas(0))

    def evaluate(self, is_stopping: Callable[[], bool] = lambda: False) -> dict[str, Value] | None:
        """Computes loss and metrics over all rows, the same on every worker; a collective.

        Args:
            is_stopping: asked at each superbatch whether this worker is to stop.

        Returns:
            The values by Keras's names, `loss` first; None, on all workers, if any of them is to stop.

        Raises:
            DataError: for a row that the model or its loss refuses, with its line.
        """
        if self._tells is None:
            self._tells = any(self._backend.gather(has_own(self._callbacks, "on_test_batch_end")))
        self._callbacks.on_test_begin()
        self._engine.totals.reset()
        loss_sum, num_rows = 0.0, 0
        stream = self._feed.stream(copy=partial(self._engine.copy_to_devices, training=False))
        with stream as superbatches, activity("validating", waits_for_threads=True):
            for superbatch in superbatches:
                stops = is_stopping()
                if stops and not self._engine.averages_by_weight:  # then all stop below
                    break
                touch()
                self._callbacks.on_test_batch_begin(superbatch.first_step)
                num_rows += int(superbatch.global_rows.sum())
                loss = self._loss(superbatch, is_stopping=stops)
                if loss is None:
                    return None
                loss_sum += loss
                if self._tells:
                    values = self._values(loss_sum, num_rows, is_stopping())
                    if values is None:
                        return None
                    self._callbacks.on_test_batch_end(superbatch.stop_step - 1, as_logs(values))
        values = self._values(loss_sum, num_rows, is_stopping())
        if values is not None:
            self._callbacks.on_test_end(as_logs(values))
        return values

    def _loss(self, superbatch: Superbatch, *, is_stopping: bool) -> float | None:
        """Returns the sum of the losses of a superbatch's rows; None on all workers if they are to stop."""
        if not superbatch.data.shape[1] and not self._engine.averages_by_weight:
            return 0.0
        engine = self._engine
        with refusals_located(self._feed.source, self._feed.plan, superbatch, engine.model, engine.inputs):
            loss = engine.evaluate(superbatch.on_devices, is_stopping=is_stopping)
            if loss is not None and engine.looks_up and not np.isfinite(loss):
                raise tf.errors.InvalidArgumentError(None, None, "an index out of range")
        return loss

    def _values(self, loss_sum: float, num_rows: int, is_stopping: bool) -> dict[str, Value] | None:
        """Returns the values over so many rows of all workers; None on all of them if any is to stop."""
        summed = self._backend.sum(np.array([loss_sum, float(is_stopping)]))
        if summed[1]:
            return None
        return {"loss": float(summed[0]) / num_rows, **self._engine.metric_values()}
