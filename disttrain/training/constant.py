"""The loss of the best constant output, which a model has to beat.

It is computed on a sample of the targets, drawn while the first epoch's rows are trained on, so that no run needs
another pass over its file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from disttrain.data.row_source import Floats, RowSource

MAX_SAMPLED = 1 << 16  # rows of all workers together: enough for their mean to about 0.4% of the targets' spread


@dataclass(frozen=True)
class Constant:
    """The best of the constants that were tried: what it is called, and its mean loss."""

    answer: str
    loss: float


class TargetSample:
    """Samples the targets of every nth row that a worker reads in an epoch; all workers' samples cover the file."""

    def __init__(self, num_rows: int, num_targets: int) -> None:
        """Starts an empty sample of a file with `num_rows` rows, which have no weights."""
        self._stride = -(-num_rows // MAX_SAMPLED)
        self._num_targets = num_targets
        self.reset()

    def reset(self) -> None:
        """Discards the sample."""
        self._skip = 0
        self._parts: list[Floats] = []

    def add(self, data: Floats) -> None:
        """Samples the next rows, float32 `[steps, rows_per_step, columns]`, targets last."""
        rows = data.reshape(-1, data.shape[2])  # [rows, columns]
        taken = rows[self._skip :: self._stride, -self._num_targets :].copy()
        self._skip += len(taken) * self._stride - len(rows)
        self._parts.append(taken)

    @property
    def rows(self) -> Floats:
        """The sampled targets, float32 `[rows, targets]`."""
        return np.concatenate([np.zeros((0, self._num_targets), np.float32), *self._parts])


def load_targets(cache_dir: Path, source: RowSource) -> Floats | None:
    """Returns the sample of this file's targets that an earlier run kept, float32 `[rows, targets]`, or None."""
    kept = source.load_finding(cache_dir, _name(source))
    num_targets = len(source.target_names)
    if kept is None or len(kept) % (4 * num_targets):
        return None
    return np.frombuffer(kept, np.float32).reshape(-1, num_targets)


def keep_targets(cache_dir: Path, source: RowSource, targets: Floats) -> None:
    """Keeps the sample, float32 `[rows, targets]`, with the file's index."""
    source.keep_finding(cache_dir, _name(source), targets.tobytes())


def _name(source: RowSource) -> str:
    return "targets-" + "-".join(source.target_names) + str(source.how_read().get("encoding", ""))


def best_constant(model: keras.Model, targets: Floats, shift: float = 0.0) -> Constant | None:
    """Returns the constant with the least loss on the targets, float32 `[rows, targets]`, or None.

    `shift` was subtracted from the first target, and is added where its value is shown.

    It is None if a constant's loss cannot be compared: for a loss that sums over rows, that is given for several named
    outputs, or that is computed from more than the output.
    """
    targets = targets[np.isfinite(targets).all(axis=1)]
    if not len(targets) or getattr(model.loss, "reduction", "") == "sum":
        return None
    width = int(model.output_shape[-1]) if isinstance(getattr(model, "output_shape", None), tuple) else targets.shape[1]
    found = []
    for name, answer in _answers(targets, width, shift):
        loss = _loss_of(model, targets, np.tile(answer.astype(np.float32), (len(targets), 1)))
        if loss is not None and np.isfinite(loss):
            found.append(Constant(name, loss))
    return min(found, key=lambda constant: constant.loss, default=None)


def _answers(targets: Floats, width: int, shift: float) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Yields constants that minimize some loss (means, medians, frequencies), float64 `[width]` each, with a name."""
    if width == targets.shape[1]:
        mean = targets.mean(axis=0, dtype=np.float64)
        median = np.median(targets, axis=0).astype(np.float64)
        yield f"the mean, {_shown(mean, shift)}", mean
        yield f"the median, {_shown(median, shift)}", median
        if ((mean > 0) & (mean < 1)).all():
            yield f"the mean, {_shown(mean)}", np.log(mean / (1 - mean))  # as logits
            yield f"the mean, {_shown(mean)}", np.log(mean)  # as logits of a softmax
    elif targets.shape[1] == 1 and (targets >= 0).all() and (targets < width).all():
        shares = np.bincount(targets[:, 0].astype(np.int64), minlength=width) / len(targets)
        yield "the classes' frequencies", shares
        yield "the classes' frequencies", np.log(np.maximum(shares, 1e-7))


def _shown(values: npt.NDArray[np.float64], shift: float = 0.0) -> str:
    return f"{values[0] + shift:.4g}" + (", …" if len(values) > 1 else "")


def _loss_of(model: keras.Model, targets: Floats, answers: Floats) -> float | None:
    try:
        return float(model.compute_loss(None, targets, answers, None, training=False)) - float(sum(model.losses))
    except Exception:  # the user's own code, which may need the features or several outputs
        return None
