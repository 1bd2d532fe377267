"""The same training with TensorFlow alone, tuned: `tf.data` decodes the CSV, and `fit` runs many steps per call.

These were tried on two cores and are no faster: `CsvDataset` (0.6 times the rows/s), decoding blocks of 64 batches and
`unbatch` (0.6), 200 steps per call (0.6), one intra-op thread (the same), no `jit_compile` (the same).
"""

import json
import sys

import keras
import tensorflow as tf

from benchmarks.generator_script import EpochTimes, build_model

STEPS_PER_EXECUTION = 1000


def decode(lines):
    x, y = tf.io.decode_csv(lines, [[0.0], [0.0]])
    return x[:, None], y[:, None]  # [batch, 1] each


def main(path, num_rows, batch_size, epochs):
    steps = num_rows // batch_size
    lines = tf.data.TextLineDataset(path, buffer_size=8 << 20).skip(1).batch(batch_size, drop_remainder=True)
    batches = lines.map(decode, num_parallel_calls=tf.data.AUTOTUNE).take(steps).repeat().prefetch(tf.data.AUTOTUNE)
    model = build_model()
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss="mae",
        metrics=["mse"],
        steps_per_execution=min(STEPS_PER_EXECUTION, steps),
        jit_compile=True,
    )
    times = EpochTimes()
    model.fit(batches, steps_per_epoch=steps, epochs=epochs, callbacks=[times], verbose=0)
    print(json.dumps({"rows": steps * batch_size, "epochs": times.epochs}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
