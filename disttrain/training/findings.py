"""Warns, once each, of what makes a run's result worthless: dead layers, losses that do not fall or mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from disttrain.data.digit_losses import DigitLoss
from disttrain.data.row_source import Floats, RowSource
from disttrain.distributed.backend import Backend
from disttrain.training.constant import Constant, TargetSample, best_constant, keep_targets, load_targets
from disttrain.training.heads import classifies
from disttrain.training.inputs import Inputs
from disttrain.training.tallies import Tallies

MAX_ROWS_LOOKED_AT = 1024  # of one batch: the layers' outputs for these are checked
MAX_WEIGHTS = 1 << 16  # of one variable: compared to find out whether any changed
SAME = 1e-6  # relative difference of two epochs' losses up to which nothing was learned
REMEDY = "scale the columns (--scale standard), lower --learning-rate, or try another --seed"


def open_findings(
    model: keras.Model,
    inputs: Inputs,
    backend: Backend,
    training: RowSource,
    validation: RowSource | None,
    say: Callable[[str], None],
    cache_dir: Path,
    tallies: Tallies,
    *,
    asks_for_task: bool,
) -> Findings:
    """Findings with what an earlier run kept of the targets in `cache_dir`; the leader's alone are asked."""
    kept = load_targets(cache_dir, training) if backend.world.is_leader and not inputs.is_weighted else None
    shift = training.table.targets[0].offset if training.table is not None else 0.0
    constant = best_constant(model, kept, shift) if kept is not None else None
    keep = partial(keep_targets, cache_dir, training)
    return Findings(
        model, inputs, backend, training, validation, say, tallies, constant, keep, shift, asks_for_task=asks_for_task
    )


class Findings:
    """One worker's part in checking a run; all workers call `epoch_ends` together, and the leader prints warnings."""

    def __init__(
        self,
        model: keras.Model,
        inputs: Inputs,
        backend: Backend,
        training: RowSource,
        validation: RowSource | None,
        say: Callable[[str], None],
        tallies: Tallies,
        constant: Constant | None = None,
        keep: Callable[[Floats], None] = lambda targets: None,
        shift: float = 0.0,
        *,
        asks_for_task: bool = False,
    ) -> None:
        """Prepares the checks.

        Args:
            model: compiled.
            inputs: what it takes of a row.
            backend: its workers check the run.
            training: the rows that are trained on.
            validation: the rows that are validated on, if there are any.
            say: prints a sentence for the user.
            tallies: what the workers count beside.
            constant: the best constant for the targets, if an earlier run has found it.
            keep: is called on the leader with a whole epoch's sample of the targets, float32 [rows, targets].
            shift: what was subtracted from the first target.
            asks_for_task: whether targets of 0 and 1 may be classes, as nothing was said about them.
        """
        self._model = model
        self._inputs = inputs
        self._shift = shift
        self._asks_for_task = asks_for_task
        self._backend = backend
        self._sources = [source for source in (training, validation) if source is not None]
        self._sample = TargetSample(training.num_rows, len(training.target_names))
        self._say = say
        self._keep = keep
        self._tallies = tallies
        self._rows = np.zeros((0, training.num_columns), np.float32)
        self._told: set[str] = set()
        self._loss_before: float | None = None  # of the epoch before
        self._weights: list[npt.NDArray[Any]] | None = None  # before the first epoch
        self._layers: keras.Model | None = None
        self._is_whole = True
        self._samples = constant is None and not inputs.is_weighted
        self.constant = constant

    def epoch_begins(self, *, whole: bool) -> None:
        """Starts an epoch; if it is not `whole`, an earlier process has trained on its first rows."""
        self._sample.reset()
        self._tallies.begin()
        self._is_whole = whole
        if self._loss_before is None and self._backend.world.is_leader:
            self._weights = self._some_weights()

    def see(self, data: Floats) -> None:
        """Checks rows that were trained on, float32 [steps, rows_per_step, columns]; the leader prints its warnings."""
        if self._samples and self._is_whole:
            self._sample.add(data)
        if self._backend.world.is_leader:
            if data.shape[1]:
                self._rows = data[-1, :MAX_ROWS_LOOKED_AT].copy()  # a view would keep all alive
            self._tell_digits([source.digit_losses.unreported() for source in self._sources])

    def epoch_ends(self, epoch: int, loss: float, *, whole: bool) -> None:
        """Combines what all workers found in an epoch, numbered from 1; the leader prints the warnings.

        `whole` says whether all of its steps since `epoch_begins` were taken.
        """
        is_drawn = self._samples and self._is_whole and whole
        sample = self._sample.rows if is_drawn else None
        self._tallies.join(epoch)
        everyones = self._backend.gather((sample, [source.digit_losses.unreported() for source in self._sources]))
        if is_drawn:
            self._samples = False
            self._sample.reset()
        if not self._backend.world.is_leader:
            return
        self._tell_digits(
            [list(chain.from_iterable(own)) for own in zip(*(found for _, found in everyones), strict=True)]
        )
        if is_drawn:
            targets = np.concatenate([drawn for drawn, _ in everyones])
            self.constant = best_constant(self._model, targets, self._shift)
            self._keep(targets)
            self._judge_targets(targets)
        self._judge_layers()
        self._judge_loss(epoch, loss)

    def _tell_digits(self, found: list[list[DigitLoss]]) -> None:
        for source, losses in zip(self._sources, found, strict=True):
            for loss in source.digit_losses.mark_reported(losses):
                self._say(f"Warning: {loss.describe()}")

    def _judge_targets(self, targets: Floats) -> None:
        """Tells of targets that are classes and are trained on as numbers."""
        loss = self._model.loss
        is_open = self._asks_for_task and isinstance(loss, str) and not classifies(loss)
        if is_open and set(np.unique(targets)) == {0, 1}:
            self._say("Note: the target holds only 0 and 1, as numbers; if these are classes, add --task binary")

    def _judge_layers(self) -> None:
        """Checks each layer's output for some rows; whatever follows a dead layer is the same for all rows."""
        features = self._rows[:, : self._inputs.num_features]
        if len(features) < 2 or (features == features[0]).all():
            return
        rows = f"{len(self._rows):,} rows"
        for layer, output in self._outputs():
            if layer is not None and not output.any():
                self._tell(f"Layer '{layer}': none of its units is active for any of {rows}; {REMEDY}", layer)
        if (output == output[0]).all():
            answer = f"{output[0].ravel()[0] + self._shift:.6g}"
            self._tell(f"The model's output is the same, {answer}, for each of {rows}; {REMEDY}", "output")

    def _outputs(self) -> list[tuple[str | None, npt.NDArray[Any]]]:
        """Returns name and output of each inner layer, if the model lists them, then of the model; [rows, ...] each."""
        outputs: list[tuple[str | None, npt.NDArray[Any]]] = []
        model, given = self._model, self._inputs.features(self._rows)
        with suppress(ValueError, AttributeError, TypeError):  # raised by a model that is only code
            layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)][:-1]
            if layers:
                (rows,) = model.inputs
                self._layers = self._layers or keras.Model(rows, {layer.name: layer.output for layer in layers})
                outputs += [(name, np.asarray(one)) for name, one in self._layers(given, training=False).items()]
        return [*outputs, (None, np.asarray(model(given, training=False)))]

    def _judge_loss(self, epoch: int, loss: float) -> None:
        if self._weights is not None and all(map(np.array_equal, self._some_weights(), self._weights)):
            self._tell(
                f"Epoch {epoch} changed no weight; raise --learning-rate, or look for layers that are frozen", "same"
            )
        self._weights = None
        constant = self.constant
        is_below = constant is not None and loss < constant.loss
        if self._loss_before is not None and not is_below and abs(loss - self._loss_before) <= SAME * abs(loss):
            self._tell(f"The loss of epoch {epoch}, {loss:.6g}, is the same as in the epoch before; {REMEDY}", "same")
        self._loss_before = loss
        if constant is not None and loss > constant.loss:
            self._tell(
                f"The loss of epoch {epoch}, {loss:.6g}, is above that of a constant, {constant.loss:.6g} (always "
                f"answering {constant.answer}): the model has learned nothing so far; {REMEDY}",
                "constant",
            )

    def _some_weights(self) -> list[npt.NDArray[Any]]:
        """Returns the first values of each variable; for a small model, these are all values."""
        return [np.asarray(variable).reshape(-1)[:MAX_WEIGHTS].copy() for variable in self._model.trainable_variables]

    def _tell(self, finding: str, subject: str) -> None:
        """Prints a finding as a warning, once for each subject."""
        if subject not in self._told:
            self._told.add(subject)
            self._say(f"Warning: {finding}")
