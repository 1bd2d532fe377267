"""What a model's answers come to on rows whose targets are known: sums of this worker, and what they give in all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from disttrain.config.option_types import Named
from disttrain.data.row_source import Floats
from disttrain.distributed.backend import Backend
from disttrain.errors import UsageError
from disttrain.training.by_name import loss_of, metrics_of
from disttrain.training.description import Description
from disttrain.training.metric_sums import Value

Doubles = npt.NDArray[np.float64]

Spread = tuple[float, Doubles, Doubles]  # of some rows: their weight, the mean, the sum of squares around it
MOST_CLASSES = 2_000  # of a confusion matrix: 32 MB
AUC_BINS = 1 << 16  # of probabilities: the area is exact to about their width


class LossSum:
    """The sum of a loss over rows, and of Keras's metrics.

    `left_out` names those that are the user's own code, which is not imported unless it is trusted.
    """

    def __init__(self, description: Description, num_outputs: int, *, trust: bool) -> None:
        """Makes loss and metrics by name, each with all its variables."""
        words = [word for word in (description.loss, *description.metrics) if word]
        self.left_out = [word for word in words if not trust and _is_own(word)]
        known = [word for word in description.metrics if word not in self.left_out]
        num_targets = len(description.targets)
        self._loss = _row_loss(description.loss) if description.loss not in self.left_out else None
        self._metrics = [one for word in known for one in _metrics(word, num_targets, num_outputs)]
        for metric in self._metrics:  # some make their variables of the first rows, and each worker has to have them
            metric.update_state(np.zeros((1, num_targets), np.float32), np.zeros((1, num_outputs), np.float32))
            metric.reset_state()
        self._sums = np.zeros(2)

    def add(self, targets: Floats, outputs: Floats, weights: Floats | None) -> None:
        """Adds rows, one at least: targets [rows, targets], outputs [rows, outputs], weights [rows]."""
        if self._loss is not None:
            self._sums += weighed(self.of_rows(targets, outputs), weights)
        for metric in self._metrics:
            metric.update_state(targets, outputs, sample_weight=weights)

    @property
    def has_loss(self) -> bool:
        """Whether the loss is known."""
        return self._loss is not None

    def of_rows(self, targets: Floats, outputs: Floats) -> Doubles:
        """Returns each row's loss, float64 [rows]; where `has_loss`."""
        assert self._loss is not None
        given = keras.ops.convert_to_tensor(targets), keras.ops.convert_to_tensor(outputs)
        losses = np.asarray(self._loss(*given), np.float64)
        # A loss of one's own may be one number for all rows.
        return np.full(len(targets), losses) if losses.ndim == 0 else losses.reshape(len(targets), -1).mean(axis=1)

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


def weighed(losses: Doubles, weights: Floats | None) -> tuple[float, float]:
    """Returns the sum of losses [rows], and that of their weights."""
    if weights is None:
        return float(losses.sum()), float(len(losses))
    return float(np.dot(losses, weights)), float(weights.sum(dtype=np.float64))


def _is_own(word: str) -> bool:
    try:
        return Named.parse(word).is_own
    except ValueError:  # a name that only its model knows
        return False


def _row_loss(name: str) -> Any:
    """Returns a function of targets and outputs that gives a loss for each row; None for one that is not known."""
    try:
        loss = loss_of(name) if name else None
    except (UsageError, ValueError):
        return None
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    return loss.call if isinstance(loss, keras.losses.Loss) else loss


def _metrics(word: str, num_targets: int, num_outputs: int) -> list[Any]:
    """Returns the metric of a name as Keras's `compile` makes it, or nothing for one that is not known."""
    by_shape = {"accuracy": "accuracy", "acc": "accuracy", "crossentropy": "crossentropy", "ce": "crossentropy"}
    if (kind := by_shape.get(word.lower())) is not None:
        prefix = "binary" if num_outputs == 1 else "sparse_categorical" if num_targets == 1 else "categorical"
        return [keras.metrics.MeanMetricWrapper(getattr(keras.metrics, f"{prefix}_{kind}"), name=word)]
    try:
        (metric,) = metrics_of([word])
    except (UsageError, ValueError):
        return []
    found = keras.metrics.get(metric) if isinstance(metric, str) else metric
    if not isinstance(found, keras.metrics.Metric):
        return [keras.metrics.MeanMetricWrapper(found, name=word if isinstance(metric, str) else found.__name__)]
    # Keras's compile calls one that is given by its name alone by that name.
    return [type(found).from_config({**found.get_config(), "name": word})] if isinstance(metric, str) else [found]


class NumberSums:
    """Sums over targets that are numbers: for errors and for what the model explains."""

    def __init__(self, num_targets: int) -> None:
        self._errors = np.zeros((2, num_targets))  # absolute, squared
        self._rows = 0.0
        self._mean = self._spread = np.zeros(num_targets)

    def add(self, targets: Floats, outputs: Floats, weights: Floats | None) -> None:
        """Adds rows: targets and outputs [rows, targets], shifted alike, and weights [rows]."""
        y, errors = targets.astype(np.float64), outputs.astype(np.float64) - targets
        w = np.ones(len(y)) if weights is None else weights.astype(np.float64)
        self._errors += [w @ np.abs(errors), w @ (errors * errors)]
        rows = w.sum()
        mean = w @ y / rows
        self._rows, self._mean, self._spread = _joined(
            (self._rows, self._mean, self._spread), (rows, mean, w @ (y - mean) ** 2)
        )

    def values(self, backend: Backend, names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns for each target its mean absolute and root mean squared error, and r2; a collective."""
        absolute, squared = backend.sum(self._errors)
        everyones = list(backend.gather((self._rows, self._mean, self._spread)))
        rows, mean, spread = everyones[0]
        for other in everyones[1:]:
            rows, mean, spread = _joined((rows, mean, spread), other)
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = np.where(spread > 0, 1 - squared / spread, np.nan)
            columns = zip(names, absolute / rows, np.sqrt(squared / rows), r2, strict=True)
        return [{"target": name, "mae": float(a), "rmse": float(s), "r2": float(r)} for name, a, s, r in columns]


def _joined(one: Spread, other: Spread) -> Spread:
    """Returns rows, mean and sum of squares around it of two sets of rows (Chan, Golub and LeVeque 1979)."""
    rows = one[0] + other[0]
    if not other[0] or not one[0]:
        return one if one[0] else other
    apart = other[1] - one[1]
    return rows, one[1] + apart * other[0] / rows, one[2] + other[2] + apart**2 * one[0] * other[0] / rows


class ClassSums:
    """Counts of rows by label and by answer; of very many labels, only how many there are and how many are right."""

    def __init__(self, num_classes: int) -> None:
        self._size = num_classes
        self._counts = np.zeros((num_classes, num_classes)) if num_classes <= MOST_CLASSES else None
        self._sums = np.zeros((3, num_classes))  # right, of the label, of the answer
        self._bins = np.zeros((2, AUC_BINS))

    def add(self, classes: npt.NDArray[np.int64], outputs: Floats, weights: Floats | None) -> None:
        """Adds rows: class numbers [rows], outputs [rows, classes] or, for two classes, [rows, 1], weights [rows]."""
        size = self._size
        answers = outputs.argmax(axis=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).astype(np.int64)
        is_right = answers == classes
        right = np.bincount(classes[is_right], None if weights is None else weights[is_right], minlength=size)
        self._sums += [right, *(np.bincount(one, weights, minlength=size) for one in (classes, answers))]
        if self._counts is not None:
            counted = np.bincount(classes * size + answers, weights, minlength=size * size)
            self._counts += counted.reshape(size, size)
        if size == 2:
            shares = np.clip(np.nan_to_num(outputs[:, -1]), 0, 1)
            places = classes * AUC_BINS + np.minimum((shares * AUC_BINS).astype(np.int64), AUC_BINS - 1)
            self._bins += np.bincount(places, weights, minlength=2 * AUC_BINS).reshape(2, AUC_BINS)

    def values(self, backend: Backend, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the confusion matrix [label][answer], empty if too large, and the labels' figures; a collective."""
        right, of_label, of_answer = backend.sum(self._sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = right / of_answer, right / of_label
            f1 = 2 * right / (of_label + of_answer)
        figures = [
            {"label": label, "rows": float(n), "precision": float(p), "recall": float(r), "f1": float(f)}
            for label, n, p, r, f in zip(labels, of_label, precision, recall, f1, strict=True)
        ]
        found: dict[str, Any] = {"classes": figures, "confusion": []}
        if self._counts is not None:
            found["confusion"] = backend.sum(self._counts).tolist()
        if len(labels) == 2:
            found["auc"] = _area(*backend.sum(self._bins))
        return found


def _area(negative: Doubles, positive: Doubles) -> float:
    """Returns the area under the ROC curve of counts by probability: ties within a bin count half."""
    below = np.cumsum(negative) - negative
    pairs = negative.sum() * positive.sum()
    return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")
