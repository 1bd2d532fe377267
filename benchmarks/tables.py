"""Public tables trained with all defaults, beside plain Keras with Normalization layers and the same network.

python -m benchmarks.tables [--seeds N]; needs scikit-learn and statsmodels, which ship the tables. For each table, the
mean absolute error on held-out rows (every fifth), as medians over the seeds, and their ratio; the last two columns are
for plain Keras on a target that was scaled by hand.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from benchmarks.measure import write_json

# The tables: package and name, the target, and columns that are left out as they give the target away.
TABLES = [
    ("sklearn", "diabetes", "target", ()),
    ("sklearn", "linnerud", "Waist", ()),
    ("sklearn", "wine", "proline", ()),
    ("statsmodels", "engel", "foodexp", ()),
    ("statsmodels", "fair", "affairs", ()),
    ("statsmodels", "randhie", "mdvis", ()),
    ("statsmodels", "star98", "NABOVE", ("NBELOW",)),
    ("statsmodels", "grunfeld", "invest", ()),
    ("statsmodels", "macrodata", "realgdp", ()),
    ("statsmodels", "statecrime", "violent", ()),
    ("statsmodels", "ccard", "AVGEXP", ()),
    ("statsmodels", "modechoice", "gc", ()),
]


def frame_of(package: str, name: str) -> Any:
    """Returns a table as a pandas DataFrame."""
    if package == "statsmodels":
        return importlib.import_module(f"statsmodels.datasets.{name}").load_pandas().data
    found = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")(as_frame=True)
    return found.frame


def raw_columns(model: keras.Model, frame: Any) -> dict[str, Any]:
    """Returns a frame's columns as the saved model takes them."""
    return {
        name: keras.ops.convert_to_tensor(
            frame[name].astype(str if wanted.dtype == "string" else float).tolist(), wanted.dtype
        )
        for name, wanted in model.input.items()
    }


def by_disttrain(place: Path, train: Any, test: Any, target: str, seed: int) -> npt.NDArray[Any]:
    """Returns the predictions for the held-out rows of a model trained by the command, with all defaults."""
    train.to_csv(place / "train.csv", index=False)
    command = [sys.executable, "-m", "disttrain", "--data", "train.csv", "--targets", target, "--seed", str(seed)]
    subprocess.run([*command, "--output", "run", "--overwrite"], cwd=place, check=True, capture_output=True)
    model = keras.saving.load_model(place / "run" / "model.keras")
    given = (
        raw_columns(model, test) if isinstance(model.input, dict) else test.drop(columns=target).to_numpy(np.float32)
    )
    return np.asarray(model(given))[:, 0]


def by_keras(train: Any, test: Any, target: str, seed: int, *, scales_target: bool) -> npt.NDArray[Any]:
    """Returns the predictions of the same network behind Keras's own preprocessing layers."""
    keras.utils.set_random_seed(seed)
    inputs, parts = {}, []
    for name in train.columns.drop(target):
        is_text = train[name].dtype.kind not in "iuf"
        inputs[name] = keras.Input((1,), name=name, dtype="string" if is_text else "float32")
        layer = keras.layers.StringLookup(output_mode="one_hot") if is_text else keras.layers.Normalization()
        layer.adapt(keras.ops.convert_to_tensor(train[[name]].to_numpy(str if is_text else np.float32).tolist()))
        parts.append(layer(inputs[name]))
    hidden = keras.layers.Concatenate()(parts)
    for units in (16, 8):
        hidden = keras.layers.Dense(units, "relu")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile("adam", loss="mae")
    wanted = train[target].to_numpy(np.float32)
    offset, scale = (wanted.mean(), wanted.std()) if scales_target else (0, 1)
    model.fit(raw_columns(model, train), (wanted - offset) / scale, batch_size=250, epochs=10, verbose=0)
    return np.asarray(model(raw_columns(model, test)))[:, 0] * scale + offset


def main() -> None:
    """Trains each table both ways, and prints the errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seeds, results = range(options.seeds), []
    print(f"{'table':12} {'rows':>6} {'disttrain':>10} {'Keras':>10} {'ratio':>6} {'target scaled':>14} {'ratio':>6}")
    for package, name, target, without in TABLES:
        frame = frame_of(package, name).drop(columns=list(without)).dropna()
        frame = frame.rename(columns=lambda column: str(column).replace("/", "_"))  # which Keras's names cannot have
        frame = frame.sample(frac=1, random_state=0)
        is_held_out = np.arange(len(frame)) % 5 == 0
        train, test = frame[~is_held_out], frame[is_held_out]
        wanted, errors = test[target].to_numpy(float), []
        with tempfile.TemporaryDirectory() as place:
            for seed in seeds:
                found = [by_disttrain(Path(place), train, test, target, seed)]
                found += [by_keras(train, test, target, seed, scales_target=scales) for scales in (False, True)]
                errors.append([float(np.abs(answers - wanted).mean()) for answers in found])
        results.append({"table": name, "rows": len(frame), "errors": errors})
        ours, plain, scaled = (median(column) for column in zip(*errors, strict=True))
        print(
            f"{name:12} {len(frame):6} {ours:10.4g} {plain:10.4g} {ours / plain:6.3f} {scaled:14.4g} "
            f"{ours / scaled:6.3f}",
            flush=True,
        )
    if options.json is not None:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
