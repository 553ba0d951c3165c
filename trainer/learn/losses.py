"""Losses per sample, so that a weight or a mask can still be put on each.

Letters: b samples, K classes, C H W of a picture.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross entropy against (1 - smoothing) at the label and smoothing spread over all classes.

    logits: (b, K); labels: (b,) int64; smoothing 0-1. Returns (b,), in float32 at least.
    Source: Szegedy et al., arXiv:1512.00567.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(precise, labels, label_smoothing=smoothing, reduction="none")


def mixup(pixels: Tensor, share: float) -> Tensor:
    """Each picture mixed with its mirror in the batch: share of its own, 1 - share of the other's.

    pixels: (b, C, H, W) float. A batch of any size, even odd: the middle one mixes with itself.
    Source: Zhang et al., arXiv:1710.09412.
    """
    return torch.lerp(pixels.flip(0), pixels, share)


def mixed(losses: Tensor, others: Tensor, share: float) -> Tensor:
    """The loss of mixed pictures, as cross entropy is linear in the target.

    losses, others: (b,) against the own and the other's label.
    """
    return torch.lerp(others, losses, share)


def mixup_share(alpha: float, draw: random.Random) -> float:
    """The share of the own picture, from Beta(alpha, alpha), kept at or above one half."""
    if alpha <= 0:
        return 1.0
    share = draw.betavariate(alpha, alpha)
    return max(share, 1.0 - share)
