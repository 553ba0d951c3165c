"""What a run is told: frozen dataclasses from one YAML file or RUN_CONFIG, and dotted overrides.

Shared with the launcher, so it imports neither torch nor anything that does.
"""

from trainer.config.loading import (
    RUN_CONFIG,
    ConfigError,
    allowed,
    describe,
    dump,
    load,
    parse,
    plain,
    walk,
)
from trainer.config.schema import (
    CheckpointConfig,
    DataConfig,
    EvaluateConfig,
    InputConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    UpdateConfig,
    WorldConfig,
    lane_balance,
    section,
    setting,
)

__all__ = [
    "RUN_CONFIG",
    "CheckpointConfig",
    "ConfigError",
    "DataConfig",
    "EvaluateConfig",
    "InputConfig",
    "LogConfig",
    "ModelConfig",
    "OptimConfig",
    "TrainConfig",
    "UpdateConfig",
    "WorldConfig",
    "allowed",
    "describe",
    "dump",
    "lane_balance",
    "load",
    "parse",
    "plain",
    "section",
    "setting",
    "walk",
]
