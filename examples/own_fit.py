"""Your own `model.fit` on a CSV of any size, with `disttrain.batches` in place of a hand-written generator.

disttrain make-data five.csv --rows 5e6 --noise 0.1
python examples/own_fit.py five.csv
"""

import sys

import keras

from disttrain import batches, num_batches

BATCH_SIZE = 250


def main(path: str, epochs: int = 3) -> None:
    """Trains on columns x and y of `path`, and prints what the model predicts for x = 0.5."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(), loss="mae", metrics=["mse"])
    model.fit(
        batches(path, BATCH_SIZE, features="x", target="y", epochs=epochs),
        steps_per_epoch=num_batches(path, BATCH_SIZE),  # counted from the file, the short last batch included
        epochs=epochs,
        shuffle=False,  # rows come in the order of the file
        verbose=2,
    )
    middle = model.predict(keras.ops.array([[0.5]]), verbose=0).item()
    print(f"x = 0.5 gives y = {middle:.3f}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} FILE [EPOCHS]")
    main(sys.argv[1], *map(int, sys.argv[2:]))
