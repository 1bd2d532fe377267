"""Saves models so that Keras alone loads them: without a loss, metric or optimizer that is a function of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras


@contextmanager
def loadable(model: keras.Model) -> Iterator[None]:
    """Saves a model inside the `with` statement as one that is not compiled, if Keras could not load what it is
    compiled with; likewise the models in it."""
    hidden = [one for one in (model, *_models_in(model)) if one.compiled and _has_functions(one.get_compile_config())]
    for one in hidden:
        one.get_compile_config = lambda: None
    try:
        yield
    finally:
        for one in hidden:
            del one.get_compile_config


def _models_in(model: keras.Model) -> list[keras.Model]:
    layers = getattr(model, "layers", ())
    return [layer for layer in layers if isinstance(layer, keras.Model)]


def _has_functions(config: Any) -> bool:
    """Returns whether a serialized configuration names a function that Keras does not have, or a class of disttrain."""
    if isinstance(config, dict):
        is_function = config.get("class_name") == "function" and not str(config.get("module", "")).startswith("keras")
        is_ours = str(config.get("module", "")).startswith("disttrain")
        return is_function or is_ours or any(_has_functions(value) for value in config.values())
    return isinstance(config, list | tuple) and any(_has_functions(value) for value in config)
