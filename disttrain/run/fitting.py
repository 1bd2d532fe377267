"""Training from Python: `disttrain.fit`, with the options of the command by the same names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from disttrain.config import TrainConfig
from disttrain.config.calling import checked, with_signature_of
from disttrain.run.given import CALLBACKS, given
from disttrain.run.worlds import run_training
from disttrain.training.user_code import GIVEN_MODEL


@with_signature_of(TrainConfig, leaving_out=("data", "model", "callbacks", "targets"))
def fit(
    model: keras.Model | Callable[..., keras.Model],
    data: str | Path | Sequence[str | Path],
    *,
    target: str | Sequence[str] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: Any,
) -> keras.callbacks.History:
    """Trains a Keras model on CSV files, on as many workers as the program was started with; returns its history.

    The model gets the features as a matrix float32 [rows, features], or columns by name (see docs/python.md), and is
    trained in place. Under `horovodrun`, every worker runs the program and calls this; each streams its shards.

    Args:
        model: compiled or not: then `optimizer`, `loss` and `metrics` are options. Or a function that returns one and
            may take `num_features`, `num_targets` and `table`.
        data: paths, URLs that fsspec opens, patterns or directories.
        target: the columns to predict; by default the last.
        callbacks: of Keras; those that write files run on the leader only.
        options: those of `disttrain train` by the same names, such as `epochs`, `batch_size` and `output`.

    Returns:
        Keras's History: losses and metrics of each epoch, over the rows of all workers.

    Raises:
        DisttrainError: what the command ends with, as an exception: UsageError, DataError, StorageError and others.
    """
    history = keras.callbacks.History()
    values = {"data": data, "targets": target, "model": GIVEN_MODEL, "callbacks": CALLBACKS, **options}
    config = checked(TrainConfig, values, "fit")
    with given(model, [*callbacks, history]):
        run_training(config, dict(os.environ))
    return history
