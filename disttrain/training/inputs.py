"""What the columns of a row are to a model: features, as a matrix or by name, targets, and the row's weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from disttrain.data.table.columns import Column


@dataclass(frozen=True)
class Inputs:
    """How rows [rows, columns] are taken apart.

    Attributes:
        num_features: numbers of a row that the model gets.
        num_targets: numbers after those, which the loss compares.
        is_weighted: whether the row's weight comes last.
        by_name: the features' columns, for a model that takes them by name; None for one that takes a matrix.
    """

    num_features: int
    num_targets: int = 1
    is_weighted: bool = False
    by_name: Sequence[Column] | None = None

    def split(self, rows: Any) -> tuple[Any, Any, Any]:
        """Returns what the model takes of some rows, the targets [rows, targets], and the weights [rows] or None."""
        stop = self.num_features + self.num_targets
        weights = rows[:, stop] if self.is_weighted else None
        return self.features(rows), rows[:, self.num_features : stop], weights

    def features(self, rows: Any) -> Any:
        """Returns what the model takes of some rows: float32 [rows, features], or a tensor for each column by name.

        A column of numbers is float32 [rows, its numbers], a category int32 [rows, 1].
        """
        if self.by_name is None:
            return rows[:, : self.num_features]
        found, start = {}, 0
        for column in self.by_name:
            stop = start + len(column.slots)
            own = tf.convert_to_tensor(rows[:, start:stop])
            found[column.name] = tf.cast(own, tf.int32) if column.kind == "category" else own
            start = stop
        return found


def averages_by_weight(loss: Any) -> bool:
    """Returns whether a Keras loss divides by the sum of the rows' weights rather than by their number."""
    return getattr(loss, "reduction", None) == "mean_with_sample_weight"
