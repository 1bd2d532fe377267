"""Every option, typed, documented and checked before any file or device is touched.

An option is declared only in classes of `Settings`: flags, environment variables (`DISTTRAIN_*`) and TOML keys are
derived from their fields (see options.py).
"""

from disttrain.config.columns import ColumnSettings
from disttrain.config.plan import PlanConfig, SimulateConfig
from disttrain.config.settings import Settings, default_cache_dir, option, positional
from disttrain.config.train import TrainConfig

__all__ = [
    "ColumnSettings",
    "PlanConfig",
    "Settings",
    "SimulateConfig",
    "TrainConfig",
    "default_cache_dir",
    "option",
    "positional",
]
