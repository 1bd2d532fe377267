"""Objects that a Python program hands to a run, under the names by which options ask for functions of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

CALLBACKS = f"{__name__}:callbacks"

model: Callable[..., keras.Model]  # while a run has them
callbacks: Callable[..., list[keras.callbacks.Callback]]


@contextmanager
def given(
    own: keras.Model | Callable[..., keras.Model], listeners: Sequence[keras.callbacks.Callback]
) -> Iterator[None]:
    """Hands a model, or the function that makes one, and callbacks to a run.

    A model that was made outside of a strategy's scope is copied into it, and gets the trained weights in the end.
    """
    copies: list[keras.Model] = []

    def made() -> keras.Model:
        if not tf.distribute.has_strategy():
            return own
        copies.append(_copy_of(own))
        return copies[-1]

    globals().update(model=made if isinstance(own, keras.Model) else own, callbacks=lambda: list(listeners))
    try:
        yield
        for copy in copies[-1:]:
            own.set_weights(copy.get_weights())  # type: ignore[union-attr]
    finally:
        for name in ("model", "callbacks"):
            globals().pop(name, None)


def _copy_of(own: Any) -> keras.Model:
    copy = keras.models.clone_model(own)
    copy.set_weights(own.get_weights())
    if own.compiled:
        copy.compile_from_config(own.get_compile_config())
    return copy
