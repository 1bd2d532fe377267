"""Ends a run at a step whose loss or gradient is not finite, and names the rows that it was made of."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np

from disttrain.data.locate import describe_batch
from disttrain.data.superbatches import Feed, Superbatch
from disttrain.distributed.backend import Backend, together
from disttrain.errors import NonFiniteError
from disttrain.training.engine import Engine, Superstep
from disttrain.training.progress import EpochProgress
from disttrain.training.refusals import refusals_located, refuse_row


class FaultySteps:
    """Judges the steps of every superstep; all workers call it together."""

    def __init__(self, engine: Engine, backend: Backend, feed: Feed, *, skips: bool) -> None:
        """`skips`: such steps are left out, unless the model refuses one of their rows."""
        self._engine = engine
        self._backend = backend
        self._feed = feed
        self._skips = skips

    def located(self, superbatch: Superbatch, epoch: int) -> AbstractContextManager[None]:
        """Makes what a kernel refuses of a superbatch inside a `with` statement a DataError that names the line."""
        plan = self._feed.plan.of_epoch(epoch)
        return refusals_located(self._feed.source, plan, superbatch, self._engine.model, self._engine.inputs)

    def check(self, superstep: Superstep, superbatch: Superbatch, epoch: int, first_step: int) -> None:
        """Ends the run before a step of a superstep, which began at `first_step`, that is not finite.

        Raises:
            NonFiniteError: on the worker whose numbers they are, with the rows' lines; PeerError on the others.
            DataError: with the line, where the model refuses one of the rows.
        """
        bad = np.flatnonzero(~superstep.applied)
        if self._skips and self._engine.looks_up:
            for number in np.flatnonzero(superstep.own_faults).tolist():
                self._refuse_rows(superbatch, epoch, first_step + number)
        if not len(bad) or self._skips:
            return
        step, loss = first_step + int(bad[0]), superstep.losses[bad[0]]
        own = bool(superstep.own_faults[bad[0]])
        owned = any(self._backend.gather(own))

        def blame() -> None:
            if own or not owned:
                self._refuse_rows(superbatch, epoch, step)
                rows = superbatch.data[step - superbatch.first_step]
                what = f"the loss became {loss}" if not np.isfinite(loss) else "a gradient is not finite"
                where = describe_batch(self._feed.source, self._feed.plan.of_epoch(epoch), step, rows)
                raise NonFiniteError(
                    f"epoch {epoch}, step {step + 1}: {what}, before the update{where}; "
                    "lower --learning-rate, look for extreme values in the data, or leave such steps out with "
                    "--on-nonfinite skip"
                )

        together(self._backend, blame)

    def check_any_applied(self, epoch: int, current: EpochProgress) -> None:
        """Raises NonFiniteError, on the leader, after an epoch of which every step was left out."""
        if self._backend.world.is_leader and 0 < current.steps == current.skipped_steps:
            raise NonFiniteError(
                f"epoch {epoch}: each of its {current.steps:,} steps was left out, as its loss or a gradient is not "
                "finite: nothing was trained; look for extreme values in the data and lower --learning-rate"
            )

    def _refuse_rows(self, superbatch: Superbatch, epoch: int, step: int) -> None:
        """Raises DataError for a row of the step that the model refuses, if there is one."""
        rows = superbatch.data[step - superbatch.first_step]
        engine, plan = self._engine, self._feed.plan.of_epoch(epoch)
        refuse_row(self._feed.source, plan, step, rows, engine.model, engine.inputs)
