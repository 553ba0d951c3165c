"""What happens to a training view beyond crop and mirror: torchvision's transforms, colour noise.

As the crop, it is a function of (seed, epoch, id) alone. torchvision is imported only where one of
its transforms is asked for: loader processes would take seconds longer to start.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from trainer.config import AugmentConfig

Transform = Callable[[Tensor], Tensor]

COLOUR_SCALES = torch.tensor([0.2175, 0.0188, 0.0045])
"""Roots of the eigenvalues of ImageNet's colour covariance (0-1 pixels)."""
COLOUR_AXES = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
"""Its eigenvectors, one a column. Source of both: Krizhevsky et al. 2012, as commonly published."""


def apply(view: Tensor, config: AugmentConfig, draw: random.Random) -> Tensor:
    """The view as the configuration changes it. view: (3, S, S) uint8; returns the same."""
    if config == AugmentConfig():
        return view
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
        torch.manual_seed(draw.getrandbits(63))
        for transform in _transforms(config):
            view = transform(view)
    if config.pca_noise:
        view = colour_noise(view, config.pca_noise, draw)
    return view


@cache
def _transforms(config: AugmentConfig) -> list[Transform]:
    made: list[Transform] = []
    if config.randaugment_ops or config.color_jitter or config.erase:
        from torchvision.transforms import v2

        if config.randaugment_ops:
            made.append(v2.RandAugment(config.randaugment_ops, config.randaugment_magnitude))
        if config.color_jitter:
            made.append(v2.ColorJitter(*[config.color_jitter] * 3))
        if config.erase:
            made.append(v2.RandomErasing(config.erase))
    return made


def colour_noise(view: Tensor, std: float, draw: random.Random) -> Tensor:
    """Adds one random colour along the axes in which ImageNet's colours differ.

    view: (3, H, W) uint8; std: of the share of each axis. Source: Krizhevsky et al. 2012, 4.1.
    """
    shares = torch.tensor([draw.gauss(0.0, std) for _ in range(3)])
    colour = 255 * COLOUR_AXES @ (shares * COLOUR_SCALES)
    return (view + colour[:, None, None]).round_().clamp_(0, 255).to(torch.uint8)
