"""Measures predictions of a whole file: disttrain's, written as CSV, in memory, and beside the training's own speed.

    python -m benchmarks.predict [--rows 20e6] [--repeats 3] [--json FILE]

The job's file and network, on one process; what the others do ends in memory, without a file.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import disttrain
from benchmarks.measure import median_s, print_table, write_json
from disttrain.synthetic.regression import Recipe, make_data

BATCH_ROWS = 1 << 16  # of Keras's predict: the fastest of 250, 4,096 and this


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=20e6, help="rows of the file (default: 20e6)")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes (default: 3)")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        results = measured(Path(place), int(options.rows), options.repeats)
    fastest = results[-1]["rows_per_s"]
    lines = [[one["what"], f"{one['rows_per_s'] / 1e6:.2f}", f"{one['rows_per_s'] / fastest:.1f}"] for one in results]
    print_table(["what", "M rows/s", "times model.predict"], lines)
    if options.json:
        write_json(options.json, results)


def measured(place, num_rows, repeats):
    path = place / "a.csv"
    make_data(str(path), Recipe(num_rows, 1, 0.1, 0))
    kept = {"cache_dir": place / "cache"}
    layers = [keras.layers.Dense(units, "relu") for units in (16, 8)]
    model = keras.Sequential([keras.Input((1,)), *layers, keras.layers.Dense(1)])
    disttrain.fit(model, path, target="y", epochs=1, output=place / "run", limit=min(num_rows, 1_000_000), **kept)
    run = str(place / "run")

    def written():
        disttrain.predict(run, path, output=place / "out.csv", overwrite=True, **kept)

    def in_memory():
        return disttrain.predict(run, path, **kept)

    def evaluated():
        disttrain.evaluate(run, path, **kept)

    def by_keras():
        lines = tf.data.TextLineDataset(str(path), buffer_size=8 << 20).skip(1).batch(BATCH_ROWS)
        rows = lines.map(lambda batch: tf.io.decode_csv(batch, [[0.0], [0.0]])[0][:, None], tf.data.AUTOTUNE)
        return model.predict(rows.prefetch(tf.data.AUTOTUNE), verbose=0)

    np.testing.assert_allclose(in_memory(), by_keras(), rtol=1e-5, atol=1e-6)
    contenders = {
        "predict to a .csv": written, "predict in memory": in_memory, "evaluate": evaluated,
        "model.predict over tf.data": by_keras,
    }  # fmt: skip
    return [{"what": what, "rows_per_s": num_rows / median_s(run, repeats)} for what, run in contenders.items()]


if __name__ == "__main__":
    main()
