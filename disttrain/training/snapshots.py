"""Takes snapshots of a training as checkpoints, and goes on from one."""

from __future__ import annotations

from collections.abc import Callable

from keras.callbacks import CallbackList

from disttrain.checkpoints.file import Checkpoint, Position
from disttrain.checkpoints.record import RunRecord
from disttrain.distributed.backend import Backend
from disttrain.training.callback_state import capture_callbacks, restore_callbacks
from disttrain.training.checkpointing import Checkpointing, Contents
from disttrain.training.engine import Engine
from disttrain.training.progress import RunProgress
from disttrain.training.state import capture_state, restore_state


class Snapshots:
    """Snapshots of a model, its optimizer, metrics and callbacks; all workers call it together."""

    def __init__(
        self,
        engine: Engine,
        backend: Backend,
        callbacks: CallbackList,
        checkpointing: Checkpointing,
        record: RunRecord,
        say: Callable[[str], None],
    ) -> None:
        """
        Args:
            engine: of the model.
            backend: whose workers train it.
            callbacks: the user's own.
            checkpointing: who has a use for the numbers.
            record: of this run.
            say: tells the user what could not be put back.
        """
        self._engine = engine
        self._backend = backend
        self._callbacks = callbacks
        self._checkpointing = checkpointing
        self._record = record
        self._say = say

    def take(self, position: Position, progress: RunProgress) -> Checkpoint:
        """Captures the training, which is at this position; workers that have no use for the arrays get none."""
        state = capture_state(self._engine, self._backend, wanted=self._checkpointing.wants_state)
        callbacks, arrays = capture_callbacks(self._callbacks)
        if self._checkpointing.every_worker_keeps:  # the leader has callbacks that the others have not
            own = (callbacks, arrays) if self._backend.world.is_leader else ([], {})
            callbacks, arrays = self._backend.gather(own)[0]
        contents = Contents(self._record, progress, callbacks, sorted(state))
        return Checkpoint(position, contents.to_json(), {**state, **arrays})

    def restore(self, checkpoint: Checkpoint) -> RunProgress:
        """Puts back what a checkpoint has, of which rank 0 alone needs the arrays; returns the run's progress."""
        contents = Contents.of(checkpoint)
        progress = contents.progress
        self._engine.model.stop_training = progress.stopped_early
        self._engine.totals.reset()
        restore_state(self._engine, self._backend, checkpoint.arrays or None)
        if progress.current.steps:
            self._begin_again(progress)
            restore_state(self._engine, self._backend, checkpoint.arrays or None)
        others = {name: checkpoint.arrays[name] for name in set(checkpoint.arrays) - set(contents.state)}
        arrays = self._backend.gather(others if self._backend.world.is_leader else None)[0]
        for message in restore_callbacks(self._callbacks, contents.callbacks, arrays or {}):
            self._say(message)
        return progress

    def _begin_again(self, progress: RunProgress) -> None:
        """Lets callbacks note what is of this process alone, such as the time; the rest is put back afterwards."""
        self._callbacks.on_epoch_begin(progress.epoch - 1)
        if progress.current.batch is not None:
            self._callbacks.on_train_batch_begin(progress.current.batch)
