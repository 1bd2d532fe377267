"""TensorFlow Lite, for phones and small machines."""

from __future__ import annotations

import re
import tempfile
import warnings
from pathlib import Path

import keras
import tensorflow as tf

from disttrain.errors import UsageError, listed
from disttrain.scoring.exporting.comparison import Arrays
from disttrain.scoring.exporting.exportable import exportable
from disttrain.scoring.exporting.exported import Exported
from disttrain.scoring.exporting.tflite_inputs import LiteInput, as_given
from disttrain.scoring.saved import Trained

_MISSING = re.compile(r"(?:TF Select|Custom) ops: (.+)")
_MOST_OPERATIONS = 8  # in a message


def write_tflite(trained: Trained, model: keras.Model, path: Path) -> Exported:
    """Writes a file, whose operations are all TensorFlow Lite's own; see `Writer`."""
    lite = exportable(trained, LiteInput)
    with tempfile.TemporaryDirectory() as place:
        lite.export(place, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(place)
        try:
            path.write_bytes(converter.convert())
        except Exception as error:  # an undocumented class of the converter
            if missing := _MISSING.findall(str(error)):
                what = listed(sorted({name for found in missing for name in found.split(", ")}), _MOST_OPERATIONS)
                raise UsageError(f"--format tflite: TensorFlow Lite has nothing for the operations {what}") from error
            raise
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        interpreter = tf.lite.Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner()
    names = {name: tensor.name for name, tensor in lite.input.items()}

    def run(inputs: Arrays) -> Arrays:
        given = {names[name]: as_given(value, lite.input[name].dtype) for name, value in inputs.items()}
        return dict(runner(**given))

    notes = [f"{name} is {_meant(one.dtype)}" for name, one in lite.input.items() if one.dtype in ("uint8", "int64")]
    return Exported(run, names, {name: name for name in lite.output}, notes)


def _meant(dtype: str) -> str:
    """Returns what an input of this type is, for one who has to give it."""
    if dtype == "uint8":
        return "the bytes of a time's text, uint8 [rows, 40], with zeros behind them"
    return "a time in whole seconds since 1970, int64"
