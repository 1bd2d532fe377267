"""The user's own Keras callbacks, run through Keras's CallbackList at the borders of supersteps."""

from __future__ import annotations

from dataclasses import dataclass

import keras
from keras.callbacks import Callback, CallbackList

from disttrain.distributed.backend import Backend, World
from disttrain.errors import UsageError
from disttrain.training.user_code import call_user_function

# Callbacks that write files run on the leader only. All others run on every worker and get the same numbers, so that
# all workers decide the same (to stop, to lower the learning rate).
WRITERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)


def build_callbacks(target: str | None, world: World, model: keras.Model, epochs: int, num_steps: int) -> CallbackList:
    """Returns the callbacks that `target` (`package.module:function`) makes, with file writers on the leader only.

    Raises:
        UsageError: if the function cannot be imported, or returns anything but a list of Keras callbacks, or a callback
            that would resume from a file of its own.
    """
    callbacks = [] if target is None else call_user_function("--callbacks", target, rank=world.rank)
    if not isinstance(callbacks, (list, tuple)) or not all(isinstance(item, Callback) for item in callbacks):
        raise UsageError(f"--callbacks {target}: returned {callbacks!r}, expected a list of keras.callbacks.Callback")
    if any(isinstance(item, keras.callbacks.BackupAndRestore) for item in callbacks):
        raise UsageError(
            f"--callbacks {target}: BackupAndRestore would restore only weights, not the position in the run; leave it "
            "out: disttrain writes checkpoints and goes on from them by itself (--checkpoint-every, --resume)"
        )
    mine = [item for item in callbacks if world.is_leader or not isinstance(item, WRITERS)]
    return CallbackList(mine, model=model, epochs=epochs, steps=num_steps, verbose=0)


def has_own(callbacks: CallbackList, *hooks: str) -> bool:
    """Returns whether any of the callbacks overrides one of these methods of Keras's Callback."""
    return any(
        getattr(getattr(item, hook), "__func__", None) is not getattr(Callback, hook)
        for item in callbacks.callbacks
        for hook in hooks
    )


@dataclass(frozen=True)
class Listening:
    """Which hooks any worker's callbacks implement, so that all workers take part in what these are told."""

    anything: bool
    batch_ends: bool

    @classmethod
    def of(cls, callbacks: CallbackList, backend: Backend) -> Listening:
        """Finds out for all workers; a collective."""
        own = (bool(callbacks.callbacks), has_own(callbacks, "on_batch_end", "on_train_batch_end"))
        return cls(*(any(flags) for flags in zip(*backend.gather(own), strict=True)))
