"""Models and callbacks for runs that are stopped and killed; they count the uses of each row, to find lost rows."""

import os
import random
import time

import keras
import numpy as np
import tensorflow as tf

NUM_ROWS = 2003  # column x0 of the data is the row number


@keras.saving.register_keras_serializable("counting")
class Counted(keras.layers.Layer):
    """Counts how often each row is trained on, and passes the features on without the row number.

    Each worker counts its own rows. At an epoch's end all workers take the mean of the counts, as of all such state.
    """

    def build(self, shape):
        counts = {"shape": (NUM_ROWS,), "initializer": "zeros", "dtype": "float64"}
        self.counts = self.add_weight(name="counts", trainable=False, **counts)

    def call(self, x, training=False):
        if training:
            self.counts.assign_add(tf.reduce_sum(rows_as_ones(x, tf.float64), axis=0))
        return x[:, 1:]


@keras.saving.register_keras_serializable("counting")
class Weighed(keras.layers.Layer):
    """Passes the features on, with an extra column of zeros whose gradient is -1 for the row's own weight."""

    def build(self, shape):
        self.counts = self.add_weight(name="counts", shape=(NUM_ROWS,), initializer="zeros")

    def call(self, x):
        own = tf.linalg.matvec(rows_as_ones(x, tf.float32), tf.convert_to_tensor(self.counts))[:, None]
        return x[:, 1:], tf.stop_gradient(own) - own


@keras.saving.register_keras_serializable("counting")
class Unseeded(keras.layers.Layer):
    """Adds noise that is drawn without a seed, so that Keras uses a generator that is not part of the model."""

    def call(self, x, training=False):
        return x + 0.01 * keras.random.normal(keras.ops.shape(x)) if training else x


@keras.saving.register_keras_serializable("counting")
class SummedLoss(keras.losses.Loss):
    """A loss that sums over rows: with plain SGD at a learning rate of 1, each row adds exactly 1 to its own weight."""

    def __init__(self, reduction="sum", **options):
        super().__init__(reduction=reduction, **options)

    def call(self, y, predicted):
        return 1e-4 * tf.square(y[:, 0] - predicted[:, 0]) + predicted[:, 1]


def rows_as_ones(x, dtype):
    return tf.one_hot(tf.cast(x[:, 0], tf.int32), NUM_ROWS, dtype=dtype)


def counted(num_features):
    """Builds a model that learns with Adam, and counts rows in a variable of each worker."""
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((num_features,)), Counted(name="rows"), dense(200, "relu"), dense(1)])
    model.compile(keras.optimizers.Adam(), loss="mae", metrics=["mse"])
    return model


def random_parts(num_features, more=()):
    """Builds a model with all state that may differ between workers: batch normalization, dropout, counts."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((num_features,)),
            Counted(name="rows"),
            layers.Dense(16, "relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            *more,
            layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), loss="mae", metrics=["mse", "mae"])
    return model


def unseeded_parts(num_features):
    """Builds `random_parts` with Keras's global random numbers too, which replicas of one worker cannot share."""
    return random_parts(num_features, [Unseeded()])


def weighed(num_features):
    """Builds a model that counts rows in its weights, which do not depend on the number of workers."""
    inputs = keras.Input((num_features,))
    features, own = Weighed(name="rows")(inputs)
    hidden = keras.layers.Dense(16, "tanh")(features)
    outputs = keras.layers.Concatenate()([keras.layers.Dense(1)(hidden), own])
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(1.0), loss=SummedLoss())
    return model


class Slow(keras.callbacks.Callback):
    """Sleeps in every hook, and prints which hook it is.

    HOLD_AT may name a hook and an epoch, such as "trains 2". The first time that hook runs in that epoch, it prints so
    and waits for a file `release`, so that a test can do something to the run at exactly that time.
    """

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.epoch = 1

    def say(self, what):
        print(f"({what})", flush=True)
        if os.environ.get("HOLD_AT") == f"{what} {self.epoch}":
            del os.environ["HOLD_AT"]  # not in an attribute, which a checkpoint would keep
            print(f"({what}: held)", flush=True)
            while not os.path.exists("release"):
                time.sleep(0.01)
        time.sleep(self.seconds)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1
        self.say("begins")

    def on_train_batch_end(self, batch, logs=None):
        self.say("trains")

    def on_test_begin(self, logs=None):
        self.say("validates")

    def on_epoch_end(self, epoch, logs=None):
        self.say("ends")


class Noisy(keras.callbacks.Callback):
    """Draws from the global random generators, whose state is part of a run's state."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def on_train_begin(self, logs=None):
        random.seed(5)
        np.random.seed(5)

    def on_train_batch_end(self, batch, logs=None):
        self.drawn = [random.gauss(0, 1), float(np.random.normal())]


def slow():
    return [Slow(float(os.environ.get("SLOW_S", "0.02")))]


def mindful():
    callbacks = keras.callbacks
    stopping = callbacks.EarlyStopping(monitor="val_loss", patience=4, restore_best_weights=True)
    return [*slow(), Noisy(), stopping, callbacks.ReduceLROnPlateau(monitor="val_loss", patience=0, min_delta=0.2)]
