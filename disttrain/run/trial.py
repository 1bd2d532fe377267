"""Measures how fast one worker trains, by some steps on the first rows whose results are thrown away."""

from __future__ import annotations

import contextlib
import csv
import io
import resource
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disttrain.config import PlanConfig, TrainConfig
from disttrain.run.importing import import_run_training

if TYPE_CHECKING:
    from disttrain.run.planning import Plan

FIRST_STEPS = 100  # of a first measurement, by which the second one is made to last for ENOUGH_S
ENOUGH_S = 2.0


@dataclass(frozen=True)
class Measured:
    """Some steps of one worker on the first rows: how many, at what speed, and the process's memory at its peak."""

    steps: int
    rows_per_s: float
    memory_bytes: int


def measure(config: PlanConfig, environ: Mapping[str, str], plan: Plan) -> Measured:
    """Trains some steps of one worker on the first rows, as the options say, and forgets what they gave."""
    rows_per_step = plan.shards_held * config.batch_size
    steps, measured = FIRST_STEPS, None
    while True:
        rows = min(steps * rows_per_step, plan.sharding.num_rows)
        seconds = _trial(config, environ, rows, plan.shards_held)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        is_last = measured is not None or seconds >= ENOUGH_S or rows == plan.sharding.num_rows
        measured = Measured(-(-rows // rows_per_step), rows / seconds, peak)
        if is_last:
            return measured
        steps = max(int(steps * ENOUGH_S / seconds), steps)


def _trial(config: PlanConfig, environ: Mapping[str, str], rows: int, num_shards: int) -> float:
    """Trains two epochs on the first rows, in a directory that is removed; returns the seconds of the second one."""
    run_training = import_run_training()
    with tempfile.TemporaryDirectory() as place:
        changed: dict[str, Any] = {
            "limit": rows, "num_shards": min(num_shards, rows), "epochs": 2, "output": Path(place) / "trial",
            "checkpoint_every": "never", "checkpoint_dir": None, "resume": "auto", "overwrite": False, "publish": None,
            "cache": None, "cache_limit": None, "callbacks": None, "validation_data": (), "validation_split": 0,
            "keep_best": None, "backend": "auto", "devices": config.devices or 1,
        }  # fmt: skip
        given = {name: getattr(config, name) for name in config.model_fields_set & TrainConfig.model_fields.keys()}
        with contextlib.redirect_stdout(io.StringIO()):
            run_training(TrainConfig.model_validate({**given, **changed}), environ)
        with (Path(place) / "trial" / "history.csv").open() as stream:
            return float(list(csv.DictReader(stream))[-1]["seconds"])
