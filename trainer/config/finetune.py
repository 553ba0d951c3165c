"""The fields of a fine-tuning: a training run that begins from another run's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.config.fields import section, setting
from trainer.config.schema import TrainConfig


@dataclass(frozen=True)
class StartConfig:
    """What the run begins from, and what of it is trained."""

    address: str = setting(
        "",
        "the run to begin from: its checkpoint.address",
        "no run is everybody's",
        required=True,
    )
    which: Literal["best", "newest"] = setting(
        "best", "its checkpoint of the best validation top-1, or its last", "what an ensemble takes"
    )
    head: Literal["keep", "new"] = setting(
        "keep", "the classifier's weights are kept, or drawn anew", "the classes are the same"
    )
    train: Literal["all", "head", "pool"] = setting(
        "all",
        "what learns: everything that is not frozen, the classifier alone, or GeM's p alone",
        "a larger input changes all layers",
    )
    frozen_stages: int = setting(
        0,
        "the stem and this many of the first stages stay as they are; 0: none",
        "the team's own fine-tuning froze none",
        unit="stages",
        least=0,
        most=16,
    )
    statistics_samples: int = setting(
        0,
        "samples whose batch statistics take the place of the running ones before the first"
        " update; 0: keep them",
        "a larger input shifts them; training moves them too",
        unit="samples",
        least=0,
    )


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """One fine-tuning run."""

    start: StartConfig = section(StartConfig, "what it begins from")
