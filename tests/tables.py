"""A table as people have them: numbers of all sizes, text, gaps, dates, weights and labels."""

from pathlib import Path

import keras
import numpy as np
import polars

MODELS = """
import keras

def by_name(table):
    keras.utils.set_random_seed(7)
    inputs, parts = {}, []
    for column in table.features:
        is_category = column.kind == "category"
        shape = (len(column.slots),)
        one = inputs[column.name] = keras.Input(shape, name=column.name, dtype="int32" if is_category else "float32")
        embedded = keras.layers.Embedding(column.num_tokens, 3) if is_category else None
        parts.append(keras.layers.Flatten()(embedded(one)) if is_category else one)
    hidden = keras.layers.Dense(8, "tanh", kernel_regularizer=keras.regularizers.L2(0.01))
    outputs = keras.layers.Dense(1)(hidden(keras.layers.Concatenate()(parts)))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.SGD(0.01), loss=loss, weighted_metrics=["mae"])
    return model

def matrix(num_features, num_targets):
    return keras.Sequential([keras.Input((num_features,)), keras.layers.Dense(num_targets)])
"""


def make_table(num_rows: int, seed: int = 0) -> polars.DataFrame:
    """Returns a table whose `price` follows from all other columns but `note`; `label` tells cheap from dear rows."""
    draw = np.random.default_rng(seed)
    city = draw.integers(0, 6, num_rows)
    age, income = draw.integers(18, 90, num_rows), draw.lognormal(10, 1, num_rows).round(2)
    seconds = 1_600_000_000 + draw.integers(0, 40_000_000, num_rows)
    price = city + age / 30 + np.log(income) / 5 + np.sin(2 * np.pi * seconds / 86_400)
    names = np.array(["Rome", "Paris, France", 'Oslo "N"', "Kyoto", "Lima", "Ulm"])
    gaps = draw.random((3, num_rows)) < 0.05
    times = polars.from_epoch(polars.Series(seconds), "s").dt.to_string("%Y-%m-%dT%H:%M:%S")
    return polars.DataFrame(
        {
            "city": [None if gone else names[one] for one, gone in zip(city, gaps[0], strict=True)],
            "zip": [f"0{1000 + one % 40}" for one in age],
            "age": [None if gone else int(one) for one, gone in zip(age, gaps[1], strict=True)],
            "income": income,
            "when": [None if gone else one for one, gone in zip(times, gaps[2], strict=True)],
            "unit": [7] * num_rows,
            "note": [f"note {draw.integers(1 << 40)}" for _ in range(num_rows)],
            "weight": draw.random(num_rows).round(3),
            "label": np.where(price > np.median(price), "dear", "cheap"),
            "price": price,
        }
    )


def write_table(path: Path, num_rows: int, seed: int = 0) -> polars.DataFrame:
    """Writes such a table and returns it."""
    frame = make_table(num_rows, seed)
    frame.write_csv(path)
    return frame


def raw_inputs(model: keras.Model, frame: polars.DataFrame) -> dict[str, object]:
    """Returns a table's columns as a model that takes raw ones wants them: as tensors, with NaN and "" for gaps."""
    found = {}
    for name, wanted in model.input.items():
        column = frame[name]
        if wanted.dtype == "string":
            texts = ["" if value is None else str(value) for value in column.to_list()]
            found[name] = keras.ops.convert_to_tensor(texts, "string")
        else:
            found[name] = keras.ops.convert_to_tensor(column.cast(polars.Float64).fill_null(float("nan")).to_numpy())
    return found
