"""The options of the commands that use a trained model: `disttrain evaluate`, `predict` and `export`."""

from __future__ import annotations

from typing import Literal

from disttrain.config.files import BadRowSettings, FileSettings
from disttrain.config.option_types import Count, Directory, Location, Places, Seconds, Words
from disttrain.config.settings import option, positional


class ModelSettings(FileSettings):
    """What all these commands have in common."""

    model: Location = positional(
        "a run's directory, one of its checkpoints, or a .keras file; a path or a URL", "MODEL"
    )
    data: Places = positional(
        "CSV files of rows for it, as one dataset: paths, URLs that fsspec opens, patterns or directories", min_length=1
    )
    trust_model: bool = option(
        "model", "load a model that holds code of its own (a Lambda layer, your own classes), which then runs", False
    )
    timeout: Seconds = option(
        "devices", "time (90s, 10m) after which a worker that makes no progress ends the run; 0 waits forever", 600
    )
    cache_dir: Directory | None = option(
        "output", "directory for indexes. Default: $XDG_CACHE_HOME/disttrain or ~/.cache/disttrain", None
    )


class ScoreSettings(ModelSettings, BadRowSettings):
    """What the commands have in common that run the model on all rows."""

    backend: Literal["auto", "local", "mirrored", "multiworker", "horovod"] = option(
        "devices", "who takes part, as in a training", "auto"
    )
    devices: Count | None = option("devices", "devices of one worker, as in a training. Default: all GPUs", None)
    threads: Count | None = option(
        "devices", "threads that one TensorFlow operation may use. Default: the machine's cores, shared", None
    )


class EvaluateSettings(ScoreSettings):
    """The options of `disttrain evaluate`."""

    importance: bool = option(
        "model",
        "also tell how much the loss rises if the values of one feature are dealt out among the rows anew "
        "(permutation importance): costs a further forward pass for each feature",
        False,
    )
    json_: bool = option("output", "print everything as JSON", False)


class PredictSettings(ScoreSettings):
    """The options of `disttrain predict`."""

    output: Location = option("output", "file to write, .csv or .parquet, a path or a URL; has to be given")
    answer: Literal["label", "probabilities"] = option(
        "output", "of a classification: the label, or a column for the probability of each", "label"
    )
    keep_columns: Words = option(
        "output", "columns of the data to write before the predictions, as they stand there. Default: none", ()
    )
    overwrite: bool = option("output", "replace the file if it exists", False)


class ExportSettings(ModelSettings):
    """The options of `disttrain export`."""

    data: Places = positional(
        "CSV files whose rows the exported model is compared on. Default: those that the model was trained on, read as "
        "they were then",
        "DATA",
        default=(),
    )
    format: Literal["savedmodel", "onnx", "tflite"] = option(
        "output",
        "savedmodel, a directory for TensorFlow Serving; onnx for onnxruntime (pip install 'disttrain[onnx]'); tflite "
        "for TensorFlow Lite; has to be given",
    )
    output: Location | None = option(
        "output",
        "file to write, of a savedmodel the directory; a path or a URL. Default: in the run's directory, as "
        "model.onnx, model.tflite or model.savedmodel; of a file, beside it under its name",
        None,
    )
    overwrite: bool = option("output", "replace what is there", False)
