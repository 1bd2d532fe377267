"""The options of `disttrain plan` and `disttrain simulate`: a training's, and those of its world and its store."""

from __future__ import annotations

from disttrain.config.option_types import Bytes, Count, Places, Seconds
from disttrain.config.settings import option, positional
from disttrain.config.train import TrainConfig


class PlanConfig(TrainConfig):
    """The options of `disttrain plan`."""

    data: Places = positional(
        "CSV files to plan for, as one dataset: paths, URLs that fsspec opens, patterns or directories", min_length=1
    )
    world_size: Count = option("plan", "how many workers there are to be", 1)
    rate: float | None = option(
        "plan",
        "rows per second that one worker trains on. Default: measured here, on the first rows",
        None,
        gt=0,
        allow_inf_nan=False,
    )
    request_price: float | None = option(
        "plan", "what the store takes for 1,000 requests. Default: only their number is told", None, ge=0
    )
    json_: bool = option("output", "print everything as JSON", False)


class SimulateConfig(PlanConfig):
    """The options of `disttrain simulate`."""

    bandwidth: Bytes = option(
        "store", "bytes per second that the store gives to all workers together, such as 10GB; has to be given"
    )
    worker_bandwidth: Bytes | None = option(
        "store", "bytes per second that one worker can get, such as 1GB. Default: as many as the store gives", None
    )
    latency: Seconds = option("store", "time until the store begins to answer a request, such as 0.05s", 0.05)
