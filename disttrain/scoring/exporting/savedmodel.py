"""TensorFlow's SavedModel, as TensorFlow Serving and `tf.saved_model.load` take it."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from disttrain.scoring.exporting.comparison import Arrays
from disttrain.scoring.exporting.exported import Exported
from disttrain.scoring.saved import Trained


def write_savedmodel(trained: Trained, model: keras.Model, path: Path) -> Exported:
    """Writes a directory; see `Writer`."""
    model.export(path, format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    names = {name: tensor.name for name, tensor in model.input.items()}

    def run(inputs: Arrays) -> Arrays:
        given = {names[name]: tf.convert_to_tensor(value, model.input[name].dtype) for name, value in inputs.items()}
        return {name: np.asarray(value) for name, value in signature(**given).items()}

    return Exported(run, names, {name: name for name in model.output})
