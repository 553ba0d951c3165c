"""Losses by name. A loss is one file here and one line in `build`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from trainer.config import LossConfig
from trainer.learn.losses.balance import Balanced
from trainer.learn.losses.base import Examples, Group, Loss, one_hot, precise, rows_of
from trainer.learn.losses.binary import BinaryCrossEntropy, binary_cross_entropy
from trainer.learn.losses.bootstrap import Bootstrap
from trainer.learn.losses.cross_entropy import CrossEntropy, cross_entropy
from trainer.learn.losses.elr import EarlyLearning
from trainer.learn.losses.focal import Focal
from trainer.learn.losses.gce import GeneralisedCrossEntropy
from trainer.learn.losses.ghm import Ghm
from trainer.learn.losses.mixing import Mix, draw_mix
from trainer.learn.losses.sce import SymmetricCrossEntropy
from trainer.learn.losses.self_label import SelfLabel

__all__ = [
    "CrossEntropy",
    "Examples",
    "Group",
    "Labels",
    "Loss",
    "Mix",
    "binary_cross_entropy",
    "build",
    "cross_entropy",
    "draw_mix",
    "one_hot",
    "precise",
    "rows_of",
]


@dataclass(frozen=True)
class Labels:
    """What a loss may know of the run's labels."""

    counts: Tensor
    """(K,) samples of each class among those trained on."""
    num_rows: int
    """Rows of the dataset's index: ids are below it."""
    epoch_samples: int
    goal: int
    """Samples of the whole run."""


def build(config: LossConfig, labels: Labels) -> Loss:
    """The loss that the configuration names, balanced as it says."""
    num_classes = len(labels.counts)
    makers: dict[str, Callable[[], Loss]] = {
        "cross_entropy": CrossEntropy,
        "binary_cross_entropy": BinaryCrossEntropy,
        "focal": lambda: Focal(config.focal),
        "ghm": lambda: Ghm(config.ghm, labels.epoch_samples),
        "gce": lambda: GeneralisedCrossEntropy(config.gce),
        "sce": lambda: SymmetricCrossEntropy(config.sce),
        "bootstrap": lambda: Bootstrap(config.bootstrap),
        "elr": lambda: EarlyLearning(config.elr, num_classes, labels.num_rows),
        "self_label": lambda: SelfLabel(config.self_label, labels.counts, labels.goal),
    }
    loss = makers[config.name]()
    return loss if config.balance.kind == "none" else Balanced(loss, config.balance, labels.counts)
