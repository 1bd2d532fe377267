"""The Keras model of a run: the dense network of the options, or the user's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from disttrain.config import TrainConfig
from disttrain.data.table.columns import Column, Table
from disttrain.errors import UsageError
from disttrain.training.by_name import loss_of, metrics_of, optimizer_of, schedule_of
from disttrain.training.embedding import embedded
from disttrain.training.heads import Head
from disttrain.training.raw_model import raw_model
from disttrain.training.user_code import call_user_function, takes_argument

COMPILE_OPTIONS = ("loss", "metrics", "optimizer", "learning_rate", "scale_lr")


def build_model(
    config: TrainConfig,
    num_features: int,
    num_targets: int,
    *,
    num_shards: int,
    steps_per_epoch: int,
    head: Head | None = None,
    table: Table | None = None,
    is_weighted: bool = False,
) -> keras.Model:
    """Returns the compiled model, which takes float32 [rows, num_features]; the dense network gives [rows, head.units].

    A model that its function already compiled keeps its own optimizer, loss and metrics. Any other is compiled here,
    under `mixed_float16` with loss scaling.

    Args:
        config: the run's options.
        num_features: columns of a row that are not targets.
        num_targets: columns of a row that are targets.
        num_shards: what the learning rate is multiplied by under `--scale-lr`.
        steps_per_epoch: steps of an epoch of warm-up.
        head: the dense network's last layer, which suits its loss; None for a linear one with a unit for each target.
        table: what is done to each column; None where all become float32 as they are.
        is_weighted: whether rows have weights, by whose sum the loss is then divided.

    Raises:
        UsageError: if the model function cannot be imported or returns no Keras model, if a loss or metric is unknown,
            or if options are given that a compiled model has already settled.
    """
    head = head or Head(num_targets)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    model = new_model(config, num_features, num_targets, head, table)
    if not model.compiled:
        rate = _learning_rate(config, num_shards, steps_per_epoch)
        _compile(model, config, rate, is_weighted=is_weighted)
    elif given := [f"--{name.replace('_', '-')}" for name in COMPILE_OPTIONS if name in config.model_fields_set]:
        raise UsageError(f"{config.model} returns a compiled model; leave out {', '.join(given)} or do not compile it")
    if getattr(model.loss, "reduction", "") in (None, "none"):
        raise UsageError("the model's loss has reduction='none'; gradients need one number: use 'sum_over_batch_size'")
    return model


def new_model(config: TrainConfig, num_features: int, num_targets: int, head: Head, table: Table | None) -> keras.Model:
    """Returns the dense network or the user's own model, which may be compiled; raises as `build_model` does."""
    if config.model is None:
        return dense_network(num_features, config.hidden, head.units, head.activation, table)
    return _own_model(config.model, num_features, num_targets, table)


def dense_network(
    num_features: int,
    hidden: tuple[int, ...],
    num_outputs: int,
    activation: str | None = None,
    table: Table | None = None,
) -> keras.Model:
    """Returns ReLU layers of `hidden` units and a last layer, by default linear; (16, 8) is the job's 1-16-8-1 network.

    Its outputs, and so its loss, are float32 at any precision. As a `table` says, categories become embeddings or
    one-hot vectors first, and what the last layer gives is multiplied by the scaled targets' units.
    """
    layers = [keras.layers.Dense(units, activation="relu") for units in hidden]
    layers.append(keras.layers.Dense(num_outputs, activation=activation, dtype="float32"))
    units = [column.unit for column in table.targets] if table is not None else []
    if any(unit != 1 for unit in units):
        layers.append(keras.layers.Rescaling(units if len(units) > 1 else units[0], dtype="float32", name="unit"))
    rows = keras.Input((num_features,))
    if table is None or all(column.kind != "category" for column in table.features):
        return keras.Sequential([rows, *layers])
    outputs = embedded(rows, table.features)
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(rows, outputs)


def num_dense_weights(num_features: int, hidden: tuple[int, ...], num_targets: int) -> int:
    """Returns the number of weights of the dense network, its biases included."""
    widths = (num_features, *hidden, num_targets)
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(widths))


def takes_table(config: TrainConfig) -> bool:
    """Returns whether the model is the user's own, and its function asks for the table."""
    return config.model is not None and takes_argument("--model", config.model, "table")


def columns_by_name(config: TrainConfig, table: Table | None) -> Sequence[Column] | None:
    """Returns the columns of a model that takes them by name; None for one that takes a matrix."""
    return table.features if table is not None and takes_table(config) else None


def saved_model(model: keras.Model, table: Table | None, *, by_name: bool) -> keras.Model:
    """Returns what is saved of a trained model: itself or, around it, one that takes the table's raw columns."""
    return model if table is None else raw_model(model, table, by_name=by_name)


def top_learning_rate(config: TrainConfig, num_shards: int) -> float | None:
    """Returns the learning rate after any warm-up: under `--scale-lr` the given one times the number of shards.

    None stands for a schedule that the user named.

    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", arXiv:1706.02677, section 2.1.
    """
    if isinstance(config.learning_rate, str):
        return None
    return config.learning_rate * (num_shards if config.scale_lr else 1)


def unit_of_loss(model: keras.Model, table: Table | None) -> float:
    """Returns the loss of a model that gives twice each target, where these are its units; 1 if no target is scaled."""
    units = [column.unit for column in table.targets] if table is not None else []
    if all(unit == 1 for unit in units):
        return 1.0
    targets = np.array([units], np.float32)
    loss = float(model.compute_loss(None, targets, 2 * targets, None, training=False))
    return loss if np.isfinite(loss) and loss > 0 else 1.0


def _learning_rate(config: TrainConfig, num_shards: int, steps_per_epoch: int) -> Any:
    """Returns a number, or a schedule: of the gradual warm-up of the same paper, section 2.2, and of the decay."""
    if isinstance(config.learning_rate, str):
        return schedule_of(config.learning_rate, epochs=config.epochs, steps_per_epoch=steps_per_epoch)
    top, steps = top_learning_rate(config, num_shards), round(config.warmup_epochs * steps_per_epoch)
    if config.decay == "cosine":
        rest = max(config.epochs * steps_per_epoch - steps, 1)
        if not steps:
            return keras.optimizers.schedules.CosineDecay(top, rest)
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, rest, warmup_target=top, warmup_steps=steps)
    if not steps:
        return top
    return keras.optimizers.schedules.PolynomialDecay(config.learning_rate, steps, end_learning_rate=top, power=1.0)


def _compile(model: keras.Model, config: TrainConfig, learning_rate: Any, *, is_weighted: bool) -> None:
    """Compiles the model; where rows have weights, its loss is divided by their sum, and its metrics are weighted."""
    loss, measured = loss_of(config.loss), metrics_of(config.metrics)
    is_given = config.scale_lr or "learning_rate" in config.model_fields_set
    optimizer = optimizer_of(config.optimizer, learning_rate, is_given=is_given)
    if config.precision == "mixed_float16":  # Keras would add it too, but not again when the saved model is loaded
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    if is_weighted:
        model.compile(optimizer=optimizer, loss=_weighted(loss), weighted_metrics=measured)
    else:
        model.compile(optimizer=optimizer, loss=loss, metrics=measured)


def _weighted(loss: Any) -> keras.losses.Loss:
    """Returns a loss that divides by the sum of the rows' weights: of Keras, or the user's own function."""
    found = keras.losses.get(loss)
    if not isinstance(found, keras.losses.Loss) and not getattr(found, "__module__", "").startswith("keras."):
        return _OwnLoss(found)
    if not isinstance(found, keras.losses.Loss):
        classes = [one for one in vars(keras.losses).values() if isinstance(one, type) and one is not keras.losses.Loss]
        found = next(made for made in (one() for one in classes) if getattr(made, "fn", None) is found)
    found.reduction = "mean_with_sample_weight"
    return found


class _OwnLoss(keras.losses.Loss):  # type: ignore[misc]
    """The user's own function of targets and outputs, averaged by the rows' weights."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__(name=getattr(function, "__name__", None), reduction="mean_with_sample_weight")
        self._function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._function(y_true, y_pred)


def _own_model(target: str, num_features: int, num_targets: int, table: Table | None) -> keras.Model:
    values = {"num_features": num_features, "num_targets": num_targets}
    model = call_user_function("--model", target, **values, **({} if table is None else {"table": table}))
    if not isinstance(model, keras.Model):
        raise UsageError(f"--model {target}: returned {type(model).__name__}, expected a keras.Model")
    for step, instead in (("train_step", "compute_loss"), ("test_step", "compute_loss and compute_metrics")):
        if getattr(getattr(model, step), "__func__", None) is not getattr(keras.Model, step):
            raise UsageError(
                f"--model {target}: {type(model).__name__} has a {step} of its own, which would not be called; put "
                f"what it does to the loss into {instead}"
            )
    if model.run_eagerly:
        raise UsageError(f"--model {target}: is compiled with run_eagerly=True, but steps are compiled; leave it out")
    return model
