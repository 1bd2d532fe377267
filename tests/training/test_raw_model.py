"""The model that takes raw columns computes what the encoder computes from a file, whatever the columns hold."""

import keras
import numpy as np
import pytest
from raw_rows import encoded, raw, rows, table_of

from disttrain.data.table.columns import Column, Table
from disttrain.training.raw_model import CORE, raw_model


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_it_computes_what_the_encoder_does_also_when_it_is_loaded_again(tmp_path):
    table, made = table_of(), rows()
    width = len(table.feature_slots)
    core = keras.Sequential([keras.Input((width,)), keras.layers.Rescaling(1.0)])
    raw_model(core, table, by_name=False).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.get_layer(CORE).input_shape == (None, width)
    given = {name: keras.ops.convert_to_tensor(one, model.input[name].dtype) for name, one in raw(table, made).items()}
    np.testing.assert_allclose(np.asarray(model(given)), encoded(table, made), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("labels", [("[UNK]", "a", "b"), ("no", "yes")])
def test_labels_come_out_as_texts(labels):
    units = len(labels) if len(labels) > 2 else 1
    columns = (Column("x", "number"), Column("y", "category", "target", categories=labels))
    core = keras.Sequential([keras.Input((1,)), keras.layers.Dense(units, "softmax" if units > 1 else "sigmoid")])
    answers = raw_model(core, Table(columns), by_name=False)({"x": keras.ops.convert_to_tensor([-9.0, 9.0], "float64")})
    shares = np.asarray(answers["probabilities"])
    assert shares.shape == (2, len(labels))
    expected = np.argmax(shares, axis=1)
    assert np.asarray(answers["label"]).astype(str).tolist() == [labels[one] for one in expected]
