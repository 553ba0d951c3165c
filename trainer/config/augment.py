"""The fields of augmentation beyond crop and mirror."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config.fields import setting


@dataclass(frozen=True)
class AugmentConfig:
    """What else happens to a training picture."""

    randaugment_ops: int = setting(
        0,
        "operations of RandAugment a picture; 0: off",
        "the team used none; 2 is the authors'",
        unit="operations",
        least=0,
        most=10,
    )
    randaugment_magnitude: int = setting(
        9, "strength of RandAugment", "the authors'", unit="1", least=0, most=30
    )
    color_jitter: float = setting(
        0.0,
        "brightness, contrast and saturation each change by up to this factor; 0: off",
        "needs time; 0.4 is the team's",
        unit="ratio",
        least=0,
        most=1,
    )
    pca_noise: float = setting(
        0.0,
        "standard deviation of AlexNet's colour noise; 0: off",
        "0.1 is the team's",
        unit="1",
        least=0,
        most=1,
    )
    erase: float = setting(
        0.0,
        "probability that a rectangle is erased",
        "the team erased nothing",
        unit="ratio",
        least=0,
        most=1,
    )
