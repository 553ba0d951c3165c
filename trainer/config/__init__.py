"""What a run is told: frozen dataclasses from one YAML file or RUN_CONFIG, and dotted overrides.

Shared with the launcher, so it imports neither torch nor anything that does.
"""

from trainer.config.augment import AugmentConfig
from trainer.config.ensemble import (
    CROPS,
    SUBMISSION_FILE,
    SUBMISSION_LABELS,
    EnsembleConfig,
    check_ensemble,
    crops_of,
)
from trainer.config.fields import section, setting
from trainer.config.finetune import FinetuneConfig, StartConfig
from trainer.config.loading import (
    RUN_CONFIG,
    RUN_INDEX,
    RUN_INDEXES,
    RUN_KEY,
    ConfigError,
    allowed,
    describe,
    dump,
    load,
    parse,
    plain,
    walk,
)
from trainer.config.losses import (
    BalanceConfig,
    BootstrapConfig,
    ElrConfig,
    FocalConfig,
    GceConfig,
    GhmConfig,
    LossConfig,
    SceConfig,
    SelfLabelConfig,
)
from trainer.config.model import ModelConfig
from trainer.config.schema import (
    CheckpointConfig,
    DataConfig,
    EvaluateConfig,
    InputConfig,
    LogConfig,
    TrainConfig,
    WorldConfig,
    lane_balance,
)
from trainer.config.textfilter import (
    NGRAMS,
    SUMMARY_KEY,
    ClassesConfig,
    EncoderConfig,
    JudgeConfig,
    SelectConfig,
    TextConfig,
    TextfilterConfig,
)
from trainer.config.update import OptimConfig, UpdateConfig

__all__ = [
    "CROPS",
    "NGRAMS",
    "RUN_CONFIG",
    "RUN_INDEX",
    "RUN_INDEXES",
    "RUN_KEY",
    "SUBMISSION_FILE",
    "SUBMISSION_LABELS",
    "SUMMARY_KEY",
    "AugmentConfig",
    "BalanceConfig",
    "BootstrapConfig",
    "CheckpointConfig",
    "ClassesConfig",
    "ConfigError",
    "DataConfig",
    "ElrConfig",
    "EncoderConfig",
    "EnsembleConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "FocalConfig",
    "GceConfig",
    "GhmConfig",
    "InputConfig",
    "JudgeConfig",
    "LogConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "SceConfig",
    "SelectConfig",
    "SelfLabelConfig",
    "StartConfig",
    "TextConfig",
    "TextfilterConfig",
    "TrainConfig",
    "UpdateConfig",
    "WorldConfig",
    "allowed",
    "check_ensemble",
    "crops_of",
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
