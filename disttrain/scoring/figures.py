"""What a model's answers come to on rows whose targets are known: sums of this worker, and what they give in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from disttrain.data.row_source import Floats
from disttrain.distributed.backend import Backend
from disttrain.errors import UsageError
from disttrain.training.by_name import loss_of, metrics_of
from disttrain.training.description import Description
from disttrain.training.metric_sums import Value

Doubles = npt.NDArray[np.float64]

MOST_CLASSES = 2_000  # of a confusion matrix: 32 MB
AUC_BINS = 1 << 16  # of probabilities: the area is exact to about their width


class LossSum:
    """The sum of a loss over rows, and of Keras's metrics."""

    def __init__(self, description: Description) -> None:
        """Takes the model's loss and metrics by name; what cannot be made without the user's code is left out."""
        self._loss = _row_loss(description.loss)
        self._metrics = [_metric(one, description) for one in _known_metrics(description.metrics)]
        self._sums = np.zeros(2)

    def add(self, targets: Floats, outputs: Floats, weights: Floats | None) -> None:
        """Adds rows: targets [rows, targets], outputs [rows, outputs], weights [rows]."""
        if self._loss is not None:
            losses = np.asarray(self._loss(keras.ops.convert_to_tensor(targets), keras.ops.convert_to_tensor(outputs)))
            own = losses.reshape(len(targets), -1).mean(axis=1, dtype=np.float64)
            self._sums += [own.sum(), len(own)] if weights is None else [np.dot(own, weights), weights.sum()]
        for metric in self._metrics:
            metric.update_state(targets, outputs, sample_weight=weights)

    def values(self, backend: Backend) -> dict[str, Value]:
        """Returns loss and metrics over the rows of all workers; a collective."""
        total, rows = backend.sum(self._sums)
        found: dict[str, Value] = {"loss": float(total / rows)} if self._loss is not None and rows else {}
        for metric in self._metrics:
            for variable in metric.variables:
                variable.assign(backend.sum(np.asarray(variable, np.float64)))
            value = np.asarray(metric.result(), np.float64)
            found[metric.name] = value.tolist() if value.ndim else float(value)
        return found


def _row_loss(name: str) -> Any:
    """Returns a function of targets and outputs that gives a loss for each row; None for one that is not known."""
    try:
        loss = loss_of(name) if name else None
    except UsageError:
        return None
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    return loss.call if isinstance(loss, keras.losses.Loss) else loss


def _known_metrics(names: Sequence[str]) -> list[Any]:
    found = []
    for name in names:
        try:
            found += metrics_of([name])
        except UsageError:
            continue
    return found


def _metric(metric: Any, description: Description) -> keras.metrics.Metric:
    """Returns a metric as Keras's `compile` makes it of a name: what accuracy means depends on the targets."""
    if metric in ("accuracy", "acc"):
        kind = "binary_accuracy" if description.task == "binary" else "sparse_categorical_accuracy"
        if description.task == "multiclass" and len(description.targets) > 1:
            kind = "categorical_accuracy"
        return keras.metrics.MeanMetricWrapper(getattr(keras.metrics, kind), name="accuracy")
    found = keras.metrics.get(metric) if isinstance(metric, str) else metric
    if isinstance(found, keras.metrics.Metric):
        named = {"name": metric} if isinstance(metric, str) else {}  # as Keras's compile calls it
        return type(found).from_config({**found.get_config(), **named})
    return keras.metrics.MeanMetricWrapper(found, name=metric if isinstance(metric, str) else found.__name__)


class NumberSums:
    """Sums over targets that are numbers, in their own units: for errors and for what the model explains."""

    def __init__(self, num_targets: int) -> None:
        self._sums = np.zeros((5, num_targets))

    def add(self, targets: Floats, outputs: Floats, weights: Floats | None) -> None:
        """Adds rows: targets and outputs [rows, targets], weights [rows]."""
        y, errors = targets.astype(np.float64), outputs.astype(np.float64) - targets
        w = np.ones(len(y)) if weights is None else weights.astype(np.float64)
        self._sums += [w @ np.ones_like(y), w @ y, w @ (y * y), w @ np.abs(errors), w @ (errors * errors)]

    def values(self, backend: Backend, names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns for each target its mean absolute and root mean squared error, and r2; a collective."""
        rows, total, squares, absolute, squared = backend.sum(self._sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = squares - total * total / rows
            r2 = np.where(spread > 0, 1 - squared / spread, np.nan)
            columns = zip(names, absolute / rows, np.sqrt(squared / rows), r2, strict=True)
        return [{"target": name, "mae": float(a), "rmse": float(s), "r2": float(r)} for name, a, s, r in columns]


class ClassSums:
    """Counts of rows by label and by answer."""

    def __init__(self, num_classes: int) -> None:
        self._counts = np.zeros((num_classes, num_classes))
        self._bins = np.zeros((2, AUC_BINS))

    def add(self, targets: Floats, outputs: Floats, weights: Floats | None) -> None:
        """Adds rows: targets [rows, 1], outputs [rows, classes] or, for two classes, [rows, 1]."""
        classes, size = targets[:, 0].astype(np.int64), len(self._counts)
        answers = outputs.argmax(axis=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).astype(np.int64)
        counted = np.bincount(classes * size + answers, weights, minlength=size * size)
        self._counts += counted.reshape(size, size)
        if size == 2:
            shares = np.clip(np.nan_to_num(outputs[:, -1]), 0, 1)
            places = classes * AUC_BINS + np.minimum((shares * AUC_BINS).astype(np.int64), AUC_BINS - 1)
            self._bins += np.bincount(places, weights, minlength=2 * AUC_BINS).reshape(2, AUC_BINS)

    def values(self, backend: Backend, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the confusion matrix [label][answer], and figures for each label; a collective."""
        counts = backend.sum(self._counts)
        right, of_label, of_answer = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = right / of_answer, right / of_label
            f1 = 2 * right / (of_label + of_answer)
        figures = [
            {"label": label, "rows": float(n), "precision": float(p), "recall": float(r), "f1": float(f)}
            for label, n, p, r, f in zip(labels, of_label, precision, recall, f1, strict=True)
        ]
        found: dict[str, Any] = {"confusion": counts.tolist(), "classes": figures}
        if len(labels) == 2:
            found["auc"] = _area(*backend.sum(self._bins))
        return found


def _area(negative: Doubles, positive: Doubles) -> float:
    """Returns the area under the ROC curve of counts by probability: ties within a bin count half."""
    below = np.cumsum(negative) - negative
    pairs = negative.sum() * positive.sum()
    return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")


def without_weightless(values: Mapping[str, Floats | None]) -> dict[str, Floats | None]:
    """Returns arrays [rows, ...] without the rows whose weight is 0: their numbers may stand for nothing."""
    weights = values["weights"]
    if weights is None or (weights != 0).all():
        return dict(values)
    kept = weights != 0
    return {name: None if array is None else array[kept] for name, array in values.items()}
