"""The formats of an export, and what each of them says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import keras

from disttrain.errors import UsageError
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
    notes: Sequence[str] = field(default=())


def not_converted(format_: str, converter: str, error: Exception) -> UsageError:
    """Returns an error for a model that a converter does not take."""
    return UsageError(f"--format {format_}: {converter} cannot convert it: {' '.join(str(error).split())[:500]}")


class Writer(Protocol):
    """Writes a model in one format."""

    def __call__(self, trained: Trained, model: keras.Model, path: Path) -> Exported:
        """Writes a file or directory that is not there yet.

        Args:
            trained: the model.
            model: what `exportable` made of it.
            path: of what is written.

        Raises:
            UsageError: for a model that the format cannot hold, or a package that is not installed.
        """
