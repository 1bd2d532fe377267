"""Every option, typed, documented and checked before any file or device is touched.

An option is declared only in classes of `Settings`: flags, environment variables (`DISTTRAIN_*`) and TOML keys are
derived from their fields (see loading.py).
"""

from disttrain.config.columns import ColumnSettings
from disttrain.config.files import BadRowSettings, FileSettings
from disttrain.config.inspect import InspectConfig
from disttrain.config.plan import PlanConfig, SimulateConfig
from disttrain.config.score import EvaluateSettings, ExportSettings, ModelSettings, PredictSettings, ScoreSettings
from disttrain.config.settings import Settings, default_cache_dir, option, positional
from disttrain.config.train import TrainConfig

__all__ = [
    "BadRowSettings",
    "ColumnSettings",
    "EvaluateSettings",
    "ExportSettings",
    "FileSettings",
    "InspectConfig",
    "ModelSettings",
    "PlanConfig",
    "PredictSettings",
    "ScoreSettings",
    "Settings",
    "SimulateConfig",
    "TrainConfig",
    "default_cache_dir",
    "option",
    "positional",
]
