"""Mixing pictures with their mirror in the batch: mixup blends them, cutmix pastes a box.

Letters: b samples, C H W of a picture.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """How a micro-batch is mixed: the same for all of its pictures."""

    share: float = 1.0
    """Of the own picture, 0-1; 1 mixes nothing."""
    box: tuple[int, int, int, int] | None = None
    """Top, left, bottom, right of what the other picture covers; None blends."""

    def pixels(self, own: Tensor) -> Tensor:
        """(b, C, H, W) float, each mixed with its mirror in the batch.

        The middle one of an odd number mixes with itself.
        """
        if self.share == 1:
            return own
        if self.box is None:
            return torch.lerp(own.flip(0), own, self.share)
        top, left, bottom, right = self.box
        mixed = own.clone()
        mixed[:, :, top:bottom, left:right] = own.flip(0)[:, :, top:bottom, left:right]
        return mixed

    def shares(self, weights: Tensor) -> tuple[Tensor | None, Tensor]:
        """(b,) shares of the own targets, and (b,) weights, of the mixed pictures.

        A target counts by its picture's share and its sample's weight, so for a loss linear in
        the target the weighted loss is the mixture of both weighted losses. A sample of weight 0
        stays at 0.
        """
        if self.share == 1:
            return None, weights
        own, other = self.share * weights, (1 - self.share) * weights.flip(0)
        total = torch.where(weights > 0, own + other, torch.zeros_like(weights))
        return torch.where(total > 0, own / total.clamp(min=1e-12), 1.0), total


def draw_mix(mixup: float, cutmix: float, side_px: int, draw: random.Random) -> Mix:
    """A mix: mixup or cutmix, evenly where both are on; nothing where both alphas are 0.

    mixup, cutmix: alpha of the Beta distribution of the share; 0 is off. side_px: of the pictures.
    The own share of mixup is at least one half. Sources: Zhang et al., arXiv:1710.09412; Yun et
    al., arXiv:1905.04899.
    """
    if mixup <= 0 and cutmix <= 0:
        return Mix()
    if cutmix <= 0 or (mixup > 0 and draw.random() < 0.5):
        share = draw.betavariate(mixup, mixup)
        return Mix(max(share, 1.0 - share))
    half = round(side_px * math.sqrt(1.0 - draw.betavariate(cutmix, cutmix)) / 2)
    row, column = draw.randrange(side_px), draw.randrange(side_px)
    top, left = max(0, row - half), max(0, column - half)
    bottom, right = min(side_px, row + half), min(side_px, column + half)
    covered = (bottom - top) * (right - left) / side_px**2
    return Mix(1.0 - covered, (top, left, bottom, right))
