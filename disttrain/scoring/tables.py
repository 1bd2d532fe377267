"""What is predicted, as columns: the targets in their own units, labels, or probabilities."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from disttrain.data.row_source import Floats
from disttrain.training.description import Description


class Answers:
    """Makes columns of a model's outputs; a row whose outputs are not numbers has no answer."""

    def __init__(self, description: Description, num_outputs: int, kept: Sequence[str], *, as_labels: bool) -> None:
        """Chooses the columns.

        Args:
            description: of the model.
            num_outputs: numbers that it gives for a row.
            kept: the data's columns that are written before the predictions.
            as_labels: whether a classification gives the label; else it gives the probability of each.
        """
        targets, table = description.targets, description.table
        self._offsets = np.array([column.offset for column in table.targets] if table is not None else [0.0])
        self._labels = description.labels(num_outputs)
        self._gives_labels = as_labels and bool(self._labels)
        if self._labels and not as_labels:
            names = [f"{targets[0]}={label}" for label in self._labels]
        elif num_outputs == len(targets) or self._gives_labels:
            names = list(targets)
        else:
            names = [f"output_{number}" for number in range(num_outputs)]
        taken = [beside(name, kept) for name in names]
        kind = pa.string() if self._gives_labels else pa.float64() if self._offsets.any() else pa.float32()
        self.schema = pa.schema([*((name, pa.string()) for name in kept), *((name, kind) for name in taken)])

    def columns(self, outputs: Floats, kept: Sequence[Sequence[str]]) -> pa.Table:
        """Returns the table of some rows: `outputs` float32 [rows, outputs], and the texts of the kept columns."""
        arrays: list[Any] = [pa.array(texts, pa.string()) for texts in kept]
        is_gap = np.isnan(outputs).any(axis=1)
        if self._gives_labels:
            words = pa.array(self._labels, pa.string())
            index = outputs.argmax(axis=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).astype(np.int64)
            arrays.append(words.take(pa.array(index, mask=is_gap if is_gap.any() else None)))
        else:
            numbers: Any = outputs
            if self._labels and outputs.shape[1] == 1:
                numbers = np.concatenate([1 - outputs, outputs], axis=1)
            elif self._offsets.any():
                numbers = outputs.astype(np.float64) + self._offsets
            for one in np.ascontiguousarray(numbers.T):
                arrays.append(pa.array(one, mask=np.isnan(one) if is_gap.any() else None))
        return pa.Table.from_arrays(arrays, schema=self.schema)


def beside(name: str, taken: Container[str]) -> str:
    """Returns a name for a prediction that is not taken."""
    while name in taken:
        name = f"predicted_{name}"
    return name


def joined(parts: Mapping[int, pa.Table]) -> pa.Table:
    """Returns the parts of a table in the order of their numbers."""
    return pa.concat_tables([parts[number] for number in sorted(parts)])


def as_array(table: pa.Table) -> npt.NDArray[Any]:
    """Returns a table as an array: [rows] of texts for one column of these, else [rows, columns]."""
    columns = [column.to_numpy() for column in table.columns]
    if table.num_columns == 1 and pa.types.is_string(table.schema[0].type):
        return np.asarray(columns[0], object)
    return np.stack(columns, axis=1)
