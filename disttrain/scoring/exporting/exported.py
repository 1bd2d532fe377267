"""The formats of an export, and what each of them says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import keras

from disttrain.data.table.columns import Column
from disttrain.errors import DisttrainError, UsageError
from disttrain.scoring.exporting.comparison import Runner
from disttrain.scoring.saved import Trained


@dataclass(frozen=True)
class Exported:
    """A written model.

    Attributes:
        run: gives its outputs for its inputs, both by the names that the Keras model gives them.
        inputs: what the format calls each of these inputs; `outputs` likewise.
        notes: what its users have to know.
    """

    run: Runner
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    notes: Sequence[str] = ()


@contextmanager
def conversion(format_: str) -> Iterator[None]:
    """Turns what a converter or another program raises, which is of many classes, into a UsageError."""
    try:
        yield
    except DisttrainError:
        raise
    except Exception as error:
        what = " ".join(str(error).split())[:500]
        raise UsageError(f"--format {format_}: does not take the model: {type(error).__name__}: {what}") from error


def check_not_hashed(column: Column, format_: str, name: str) -> None:
    """Raises UsageError for a hashed category, which a format, called `name`, cannot compute."""
    if column.bins:
        raise UsageError(
            f"--format {format_}: '{column.name}' is a hashed category, and {name} cannot hash texts; export a "
            f"savedmodel, or train with --kinds {column.name}=category"
        )


class Writer(Protocol):
    """Writes a model in one format."""

    def __call__(self, trained: Trained, model: keras.Model, path: Path) -> Exported:
        """Writes a file or directory that is not there yet.

        Args:
            trained: the model.
            model: what `exportable` made of it.
            path: of what is written.

        Raises:
            UsageError: for a model that the format cannot hold.
            Exception: what a converter raises; see `conversion`.
        """
