"""The rows that an exported model is compared on, and what the Keras model gives for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import keras
import numpy as np

from disttrain.config import ExportSettings
from disttrain.data.csv.source import Source
from disttrain.errors import UsageError
from disttrain.run.context import FilesContext
from disttrain.scoring.exporting.comparison import TOLERANCE, Arrays, Runner, answers_of, differences, have_answers
from disttrain.scoring.exporting.exportable import columns_of
from disttrain.scoring.exporting.raw_rows import raw_rows
from disttrain.scoring.rows import open_rows
from disttrain.scoring.saved import Trained
from disttrain.synthetic.regression import make_sample


@dataclass(frozen=True)
class Checked:
    """Rows of a file, with what the Keras model gives for them."""

    source: Source
    rows: list[int]
    inputs: Arrays
    expected: Arrays
    labels: tuple[str, ...]

    @property
    def shown(self) -> str:
        """What a message calls them."""
        return f"{len(self.rows):,} of {self.source.num_rows:,} rows of {self.source.url}"

    def largest_difference(self, run: Runner, what: str) -> float:
        """Runs an exported model, and returns how far it is off.

        Raises:
            UsageError: if that is too far; `what` is what the message calls the model.
        """
        off = differences(self.expected, run, self.inputs, self.labels)
        worst = int(off.argmax())
        if not off[worst] <= TOLERANCE:
            raise UsageError(
                f"{what}: gives other answers than the Keras model, off by {off[worst]:.2g} in "
                f"{self.source.place_of(self.rows[worst])}; nothing was written"
            )
        return float(off[worst])


def rows_to_check(context: FilesContext, config: ExportSettings, trained: Trained, model: keras.Model) -> Checked:
    """Reads rows of the files that are named, else of those that the model was trained on; raises what opening raises.

    `model` is what `exportable` made of the trained one.
    """
    description = trained.description
    if config.data:
        source = open_rows(context, description, config.model, with_targets=False)
    else:
        source = _trained_on(context, config, trained)
    texts = [name for name, one in model.input.items() if one.dtype == "string"]
    gaps = description.table.gaps if description.table is not None else ()
    found, rows = raw_rows(source, columns_of(trained), texts, gaps)
    inputs = {
        name: value if name in texts else np.asarray(value, model.input[name].dtype) for name, value in found.items()
    }
    expected = answers_of(model, inputs)
    if not have_answers(expected).any():
        raise UsageError(f"{source.url}: the Keras model gives a number to none of its rows; name others to compare on")
    return Checked(source, rows, inputs, expected, description.labels(0))


def _trained_on(context: FilesContext, config: ExportSettings, trained: Trained) -> Source:
    description = trained.description
    if description.data is None:
        raise UsageError(
            f"{config.model}: does not tell which files it was trained on; name rows to compare the exported model on, "
            "as in: disttrain export MODEL rows.csv"
        )
    data = description.data or (str(make_sample(context.cache_dir)),)
    given = {name: getattr(config, name) for name in config.model_fields_set}
    reading = config.model_copy(update={**description.reading, **given, "data": data})
    try:
        return open_rows(replace(context, config=reading), description, config.model, with_targets=False)
    except UsageError as error:
        raise UsageError(
            f"{error}; the model was trained on it: name other rows to compare the exported model on, as in: disttrain "
            "export MODEL rows.csv"
        ) from error
