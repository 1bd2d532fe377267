"""The Keras model of a run: the dense network of the options, or the user's own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras

from disttrain.config import TrainConfig
from disttrain.errors import UsageError
from disttrain.training.heads import Head, check_loss, check_metrics
from disttrain.training.user_code import call_user_function

COMPILE_OPTIONS = ("loss", "metrics", "learning_rate", "scale_lr")


def build_model(
    config: TrainConfig,
    num_features: int,
    num_targets: int,
    *,
    num_shards: int,
    steps_per_epoch: int,
    head: Head | None = None,
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

    Raises:
        UsageError: if the model function cannot be imported or returns no Keras model, if a loss or metric is unknown,
            or if options are given that a compiled model has already settled.
    """
    head = head or Head(num_targets)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    if config.model is None:
        model = dense_network(num_features, config.hidden, head.units, head.activation)
    else:
        model = _own_model(config.model, num_features, num_targets)
    if not model.compiled:
        metrics = config.metrics
        if config.model is None and "metrics" not in config.model_fields_set and head.takes_labels:
            metrics = ("accuracy",)
        _compile(model, config, metrics, _learning_rate(config, num_shards, steps_per_epoch))
    elif given := [f"--{name.replace('_', '-')}" for name in COMPILE_OPTIONS if name in config.model_fields_set]:
        raise UsageError(f"{config.model} returns a compiled model; leave out {', '.join(given)} or do not compile it")
    if getattr(model.loss, "reduction", "") in (None, "none"):
        raise UsageError("the model's loss has reduction='none'; gradients need one number: use 'sum_over_batch_size'")
    return model


def dense_network(
    num_features: int, hidden: tuple[int, ...], num_outputs: int, activation: str | None = None
) -> keras.Model:
    """Returns ReLU layers of `hidden` units and a last layer, by default linear; (16, 8) is the job's 1-16-8-1 network.

    Its outputs, and so its loss, are float32 at any precision.
    """
    layers = [keras.layers.Dense(units, activation="relu") for units in hidden]
    last = keras.layers.Dense(num_outputs, activation=activation, dtype="float32")
    return keras.Sequential([keras.Input((num_features,)), *layers, last])


def num_dense_weights(num_features: int, hidden: tuple[int, ...], num_targets: int) -> int:
    """Returns the number of weights of the dense network, its biases included."""
    widths = (num_features, *hidden, num_targets)
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(widths))


def top_learning_rate(config: TrainConfig, num_shards: int) -> float:
    """Returns the learning rate after any warm-up: under `--scale-lr` the given one times the number of shards.

    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", arXiv:1706.02677, section 2.1.
    """
    return config.learning_rate * (num_shards if config.scale_lr else 1)


def _learning_rate(config: TrainConfig, num_shards: int, steps_per_epoch: int) -> Any:
    """Returns a number, or a schedule that begins with the gradual warm-up of the same paper, section 2.2."""
    top, steps = top_learning_rate(config, num_shards), round(config.warmup_epochs * steps_per_epoch)
    if not steps:
        return top
    return keras.optimizers.schedules.PolynomialDecay(config.learning_rate, steps, end_learning_rate=top, power=1.0)


def _compile(model: keras.Model, config: TrainConfig, metrics: Sequence[str], learning_rate: Any) -> None:
    check_loss(config.loss)
    check_metrics(metrics)
    optimizer = keras.optimizers.Adam(learning_rate)
    if config.precision == "mixed_float16":  # Keras would add it too, but not again when the saved model is loaded
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer=optimizer, loss=config.loss, metrics=list(metrics))


def _own_model(target: str, num_features: int, num_targets: int) -> keras.Model:
    model = call_user_function("--model", target, num_features=num_features, num_targets=num_targets)
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
