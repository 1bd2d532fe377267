"""Using a trained model from Python: `disttrain.evaluate`, `predict` and `export`, with the commands' options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy.typing as npt

from disttrain.config import EvaluateSettings, ExportSettings, ModelSettings, PredictSettings, default_cache_dir
from disttrain.config.calling import checked, with_signature_of
from disttrain.data.csv.headers import read_text
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.errors import UsageError, listed
from disttrain.run.shared_text import how_read
from disttrain.scoring.evaluation import Evaluated, evaluated_in
from disttrain.scoring.exporting.exporting import write_export
from disttrain.scoring.prediction import predicted_in, write_predictions
from disttrain.scoring.saved import Trained
from disttrain.scoring.tables import as_array
from disttrain.scoring.world import open_world
from disttrain.training.description import Description

Model: TypeAlias = "keras.Model | str | Path"
_IN_MEMORY = "the Keras model"  # what messages call a model that is no file


@with_signature_of(EvaluateSettings, leaving_out=("json_",))
def evaluate(
    model: Model,
    data: str | Path | Sequence[str | Path],
    *,
    target: str | Sequence[str] = (),
    features: Sequence[str] = (),
    **options: Any,
) -> Evaluated:
    """Evaluates a model on files whose targets are known, on as many workers as the program was started with.

    Args:
        model: the path or URL of a run's directory, a checkpoint or a `.keras` file; or a Keras model that takes a
            matrix of numbers.
        data: paths, URLs that fsspec opens, patterns or directories.
        target, features: the columns, for a Keras model; by default the last one, and all others.
        options: those of `disttrain evaluate` by the same names.

    Returns:
        What its answers come to over the rows of all workers, the same on each: `values` has loss and metrics.

    Raises:
        DisttrainError: what the command ends with, as an exception.
    """
    config = checked(EvaluateSettings, {"model": _name(model), "data": data, **options}, "evaluate")
    trained = _trained(model, config, target, features)
    with open_world(config, dict(os.environ), with_targets=True, trained=trained) as scored:
        return evaluated_in(config, scored)


@with_signature_of(PredictSettings)
def predict(
    model: Model,
    data: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None = None,
    target: str | Sequence[str] = (),
    features: Sequence[str] = (),
    **options: Any,
) -> npt.NDArray[Any] | None:
    """Predicts the rows of files, in their order, on as many workers as the program was started with.

    Args:
        model: as `evaluate` takes it.
        data: paths, URLs that fsspec opens, patterns or directories.
        output: a `.csv` or `.parquet` file to write, local or in a store. By default the predictions are returned.
        target, features: the columns, for a Keras model; by default the last one, which need not be there, and all
            others.
        options: those of `disttrain predict` by the same names.

    Returns:
        The predictions of all rows on every worker, [rows] of labels, else [rows, columns]; None with `output`.

    Raises:
        DisttrainError: what the command ends with, as an exception.
    """
    values = {"model": _name(model), "data": data, "output": str(output or "memory.parquet"), **options}
    config = checked(PredictSettings, values, "predict")
    trained = _trained(model, config, target, features)
    if output is not None:
        write_predictions(config, dict(os.environ), trained)
        return None
    with open_world(config, dict(os.environ), with_targets=False, trained=trained) as scored:
        return as_array(predicted_in(config, scored))


@with_signature_of(ExportSettings)
def export(
    model: Model,
    data: str | Path | Sequence[str | Path] = (),
    *,
    output: str | Path | None = None,
    target: str | Sequence[str] = (),
    features: Sequence[str] = (),
    **options: Any,
) -> str:
    """Writes a model as a SavedModel, as ONNX or for TensorFlow Lite, once it gave the same answers there.

    Args:
        model: as `evaluate` takes it; a Keras model needs `data` and `output`.
        data: files whose rows both models are compared on. By default those that the model was trained on.
        output: the file or, of a SavedModel, the directory to write, local or in a store. By default beside the model.
        target, features: the columns, for a Keras model; by default the last one, which need not be there, and all
            others.
        options: those of `disttrain export` by the same names; `format` has to be given.

    Returns:
        Where it is.

    Raises:
        DisttrainError: what the command ends with, as an exception.
    """
    values = {"model": _name(model), "data": data, "output": None if output is None else str(output), **options}
    config = checked(ExportSettings, values, "export")
    if isinstance(model, keras.Model) and not (config.data and config.output):
        raise UsageError("export: a Keras model, which is no file, needs data and output")
    return write_export(config, dict(os.environ), _trained(model, config, target, features))


def _name(model: Model) -> str:
    return _IN_MEMORY if isinstance(model, keras.Model) else str(model)


def _trained(
    model: Model, config: ModelSettings, target: str | Sequence[str], features: Sequence[str]
) -> Trained | None:
    """Returns a Keras model with what it takes of the files; None for a path, which is opened later."""
    if not isinstance(model, keras.Model):
        return None
    targets = [target] if isinstance(target, str) else list(target)
    cache_dir = config.cache_dir or default_cache_dir(os.environ)
    with OpenCsv.choose(
        read_text(config.data, how_read(config, cache_dir)), features=features or None, targets=targets or None
    ) as opened:
        names = opened.feature_names, opened.target_names
    loss = model.loss if model.compiled and isinstance(model.loss, str) else ""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] is None:
        raise UsageError(f"{_IN_MEMORY}: takes {shape or 'inputs of no known shape'}, expected [rows, features]")
    if len(names[0]) == shape[1] - 1 and not features and not targets:  # rows without a target
        names = (*names[0], *names[1]), ()
    if len(names[0]) != shape[1]:
        raise UsageError(
            f"{_IN_MEMORY}: takes {shape[1]} features, and {len(names[0])} columns are chosen ({listed(names[0])}); "
            "name others with features and target"
        )
    description = Description(*names, None, False, "regression", loss, ())
    return Trained(_IN_MEMORY, "", model, description)
