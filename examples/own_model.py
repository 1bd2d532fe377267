"""A model of your own for the `disttrain` command: any function that returns a Keras model, compiled or not.

disttrain make-data thirty.csv --rows 5e6 --features 30 --noise 0.1
python -m disttrain --data thirty.csv --model examples.own_model:build
"""

import keras


def build(num_features: int, num_targets: int, width: int = 64, num_blocks: int = 2) -> keras.Model:
    """Builds a small residual network, compiled with its own optimizer, loss and metrics.

    disttrain passes `num_features` and `num_targets`, which it knows from the file's columns, to a function that has
    parameters of these names.
    """
    inputs = keras.Input((num_features,))
    hidden = keras.layers.Dense(width)(inputs)
    for _ in range(num_blocks):
        step = keras.layers.LayerNormalization()(hidden)
        step = keras.layers.Dense(width, activation="gelu")(step)
        hidden = keras.layers.Add()([hidden, keras.layers.Dense(width)(step)])
    model = keras.Model(inputs, keras.layers.Dense(num_targets)(hidden))
    optimizer = keras.optimizers.AdamW(learning_rate=0.002, weight_decay=1e-4, global_clipnorm=1.0)
    model.compile(optimizer=optimizer, loss=keras.losses.Huber(), metrics=["mae"])
    return model


def by_name(table):
    """A model that takes columns by name, text among them: embeddings of categories beside the numbers."""
    inputs, parts = {}, []
    for column in table.features:
        rows = inputs[column.name] = keras.Input((len(column.slots),), name=column.name)
        is_category = column.kind == "category"
        parts.append(
            keras.layers.Flatten()(keras.layers.Embedding(column.num_tokens, 8)(rows)) if is_category else rows
        )
    hidden = keras.layers.Dense(32, activation="relu")(keras.layers.Concatenate()(parts))
    return keras.Model(inputs, keras.layers.Dense(len(table.target_slots))(hidden))
