"""The options of a training run."""

from __future__ import annotations

import math
import re
from typing import Literal

from pydantic import field_validator, model_validator

from disttrain.config.columns import ColumnSettings
from disttrain.config.files import BadRowSettings
from disttrain.config.option_types import (
    Bytes,
    Count,
    Directory,
    Every,
    Location,
    Named,
    Names,
    Places,
    Rate,
    Seconds,
    Widths,
)
from disttrain.config.settings import option

# The network, batch and epochs of the job that disttrain was made for.
JOB_HIDDEN = (16, 8)
JOB_BATCH_ROWS = 250
JOB_EPOCHS = 10


class TrainConfig(ColumnSettings, BadRowSettings):
    """The options of a training run."""

    validation_data: Places = option("data", "other CSV files, evaluated after every epoch. Default: none", ())
    validation_split: float = option(
        "data", "share of the rows, drawn by number and seed, that is evaluated instead of trained on", 0, ge=0, lt=1
    )
    limit: Count | None = option("data", "how many of the first rows to use. Default: all", None)
    strict: bool = option(
        "data", "end the run, instead of warning, at a whole number that float32 rounds to another", False
    )
    cache: Directory | None = option(
        "data",
        "directory on a local disk for parsed rows, 4 bytes a number, so that later epochs and runs neither fetch nor "
        "parse the file again. Default: none",
        None,
    )
    cache_limit: Bytes | None = option(
        "data",
        "most bytes that the cache directory may take, such as 10GB; the least recently used entries are removed. "
        "Default: as much as the disk has",
        None,
    )

    model: str | None = option(
        "model",
        "your own Keras model, as package.module:function; the function may take num_features and num_targets, or "
        "table for columns by name. "
        "Default: a dense network",
        None,
    )
    hidden: Widths = option("model", "units of the dense network's hidden layers", JOB_HIDDEN)
    task: Literal["auto", "regression", "binary", "multiclass"] = option(
        "model",
        "what the targets are: numbers (regression), one of two labels (binary) or of several (multiclass); loss, last "
        "layer and metrics follow. auto: a target of texts holds labels, all others numbers, unless the loss says "
        "otherwise",
        "auto",
    )
    loss: str = option(
        "model",
        "Keras loss, with arguments as in huber:delta=2, or your own as package.module:function. "
        "Default: mae; of labels, the cross-entropy",
        "mae",
    )
    metrics: Names = option(
        "model",
        "Keras metrics, with arguments as in AUC:curve=PR,name=pr, or your own. Default: mse; of labels, accuracy",
        ("mse",),
    )
    optimizer: str = option(
        "model",
        "Keras optimizer, with arguments as in adamw:weight_decay=0.01,clipnorm=1, or package.module:function, which "
        "may take learning_rate and returns one",
        "adam",
    )
    learning_rate: Rate = option(
        "model",
        "the optimizer's step size, or a Keras schedule with arguments, as in "
        "ExponentialDecay:initial_learning_rate=0.01,decay_steps=1000,decay_rate=0.9, or package.module:function, "
        "which may take epochs and steps_per_epoch and returns one",
        0.001,
    )
    decay: Literal["auto", "cosine", "none"] = option(
        "model",
        "how the learning rate falls: cosine falls to 0 over all epochs (Loshchilov and Hutter 2017); auto is cosine "
        "for the dense network where a column is scaled, with 1,000 steps an epoch and no callbacks, else none",
        "auto",
    )
    scale_lr: bool = option(
        "model", "multiply the learning rate by the number of shards, as the global batch is (Goyal et al. 2017)", False
    )
    warmup_epochs: float = option(
        "model",
        "number of epochs, which may be a fraction, over which --scale-lr raises the learning rate from the given one; "
        "the paper used 5",
        0,
        ge=0,
        allow_inf_nan=False,
    )

    epochs: Count = option("training", "passes over the data", JOB_EPOCHS)
    batch_size: Count = option("training", "rows of each shard in one step", JOB_BATCH_ROWS)
    num_shards: Count | None = option(
        "training",
        "shards of the data; batch size x shards is the global batch. Default: one for each device of each worker",
        None,
    )
    shuffle: Literal["none", "shard", "global"] = option(
        "training",
        "order of the rows: none keeps the file's; shard permutes each shard's rows, anew in every epoch; global also "
        "deals blocks of rows to all shards, anew in every epoch, which a sorted file needs",
        "none",
    )
    seed: int = option("training", "random seed for initial weights, shuffling and dropout", 0, ge=0, lt=2**32)
    steps_per_execution: Count | None = option(
        "training", "steps in one compiled call. Default: chosen from the size of a batch in bytes", None
    )
    backend: Literal["auto", "local", "mirrored", "multiworker", "horovod"] = option(
        "devices",
        "auto is horovod if horovodrun or mpirun started the process, multiworker if TF_CONFIG names several workers, "
        "else mirrored for several GPUs and local for one device",
        "auto",
    )
    devices: Count | None = option(
        "devices",
        "devices of one mirrored worker: GPUs or, where there are none, logical devices of the CPU. "
        "Default: all GPUs, or the CPU as one device",
        None,
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = option(
        "devices",
        "Keras's dtype policy: the mixed ones compute in 16 bits and keep float32 weights; mixed_float16 also scales "
        "the loss",
        "float32",
    )
    collective: Literal["auto", "compiled", "horovod"] = option(
        "devices",
        "who sums the gradients of Horovod's workers: compiled is part of the compiled steps, for workers on the CPUs "
        "of one machine; horovod is Horovod's thread, for all others. auto is compiled where it can be",
        "auto",
    )
    compression: Literal["none", "fp16"] = option(
        "devices", "how Horovod sends gradients: none as they are, fp16 as 16-bit floats, in half the bytes", "none"
    )
    threads: Count | None = option(
        "devices",
        "threads that one TensorFlow operation may use. Default: 1 for the dense network up to 100,000 weights, "
        "else the machine's cores shared by its workers",
        None,
    )

    sync_every: Count = option(
        "training",
        "steps that each worker takes alone before all average their weights (local SGD); 1 averages the gradients of "
        "every step instead",
        1,
    )
    timeout: Seconds = option(
        "training",
        "time (90s, 10m) after which the run ends if a worker makes no progress, and names it; must be longer than the "
        "model takes to compile; 0 waits forever",
        600,
    )
    on_nonfinite: Literal["stop", "skip"] = option(
        "training",
        "what to do about an update whose loss or gradient is NaN or infinite: stop ends the run before it; skip "
        "leaves it out (with sync_every, only on the worker where it occurred)",
        "stop",
    )
    callbacks: str | None = option(
        "training",
        "your own Keras callbacks, as package.module:function, which returns a list and may take rank. Default: none",
        None,
    )

    checkpoint_every: str = option(
        "checkpoints",
        "how often to save a checkpoint, besides at the end of each epoch: 1000 (steps), 90s, 5m, 2h; epoch: only at "
        "the end of each epoch; never: no checkpoints at all",
        "5m",
    )
    checkpoint_dir: Location | None = option(
        "checkpoints",
        "directory, local or any URL that fsspec opens. Default: checkpoints/ in the output directory",
        None,
    )
    keep: Count = option("checkpoints", "how many of the newest checkpoints to keep", 2)
    keep_best: str | None = option(
        "checkpoints",
        "also keep the checkpoint that is best by this value, such as val_loss or val_r2:max. Default: val_loss with "
        "--validation-data",
        None,
    )
    resume: Location = option(
        "checkpoints",
        "auto: go on from the newest checkpoint in the output directory, if there is one; never: start from the "
        "beginning; else go on from this path or URL of a run's directory, of its checkpoints' directory or of one "
        "checkpoint",
        "auto",
    )

    output: Directory | None = option(
        "output", "directory for model, history and metrics. Default: runs/NAME-TIME, with the data file's name", None
    )
    publish: Location | None = option(
        "output",
        "directory, local or any URL that fsspec opens, that gets a copy of the results when the run has ended. "
        "Default: none",
        None,
    )
    overwrite: bool = option("output", "replace the results of an earlier run in the output directory", False)
    cache_dir: Directory | None = option(
        "output", "directory for indexes and the sample. Default: $XDG_CACHE_HOME/disttrain or ~/.cache/disttrain", None
    )

    @field_validator("checkpoint_every")
    @classmethod
    def _is_a_frequency(cls, value: str) -> str:
        Every.parse(value)
        return value

    @field_validator("keep_best")
    @classmethod
    def _is_value_and_mode(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\w+(:(min|max))?", value):
            raise ValueError("must be the name of a value, such as val_loss, val_r2:max or loss:min")
        return value

    @property
    def validates(self) -> bool:
        """Whether rows are evaluated after every epoch."""
        return bool(self.validation_data or self.validation_split)

    @model_validator(mode="after")
    def _validates_once(self) -> TrainConfig:
        if self.validation_data and self.validation_split:
            raise ValueError("validation_data and validation_split both say what is evaluated: give only one")
        return self

    @model_validator(mode="after")
    def _overwriting_starts_anew(self) -> TrainConfig:
        if self.overwrite and self.resume not in ("auto", "never"):
            raise ValueError("overwrite removes an earlier run's results, resume goes on from them: give only one")
        return self

    @model_validator(mode="after")
    def _limit_is_of_a_cache(self) -> TrainConfig:
        if self.cache_limit is not None and self.cache is None:
            raise ValueError("cache_limit needs a cache: name its directory with --cache")
        return self

    @model_validator(mode="after")
    def _warmup_is_of_scaling(self) -> TrainConfig:
        if self.warmup_epochs and not self.scale_lr:
            raise ValueError("warmup_epochs only applies to a scaled learning rate: add --scale-lr")
        return self

    @field_validator("loss", "metrics", "optimizer")
    @classmethod
    def _names_something(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in (value,) if isinstance(value, str) else value:
            Named.parse(name)
        return value

    @field_validator("learning_rate")
    @classmethod
    def _is_a_rate(cls, value: float | str) -> float | str:
        if isinstance(value, str):
            Named.parse(value)
        elif not 0 < value < math.inf:
            raise ValueError("expected a finite number greater than 0")
        return value

    @model_validator(mode="after")
    def _schedule_is_alone(self) -> TrainConfig:
        if isinstance(self.learning_rate, str) and (self.scale_lr or self.decay == "cosine"):
            raise ValueError("learning_rate is a schedule, which neither scale_lr nor decay changes: leave these out")
        return self

    @model_validator(mode="after")
    def _compression_is_of_gradients(self) -> TrainConfig:
        if self.compression != "none" and self.sync_every > 1:
            raise ValueError(
                "compression applies to gradients; with sync_every, weights are sent, which need their precision"
            )
        return self

    @field_validator("model", "callbacks")
    @classmethod
    def _is_module_and_function(cls, value: str | None) -> str | None:
        if value is not None and not all(part.isidentifier() for part in value.replace(":", ".").split(".")):
            raise ValueError("must look like package.module:function")
        if value is not None and value.count(":") != 1:
            raise ValueError("must look like package.module:function")
        return value
