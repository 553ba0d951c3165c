"""Symmetric cross entropy: cross entropy plus its reverse, which bounds what a wrong label does."""

from __future__ import annotations

import math

from torch import Tensor

from trainer.config import SceConfig
from trainer.learn.losses.base import Examples, Loss, precise
from trainer.learn.losses.cross_entropy import cross_entropy


def reverse_cross_entropy(logits: Tensor, targets: Tensor, log_zero: float) -> Tensor:
    """-sum_k p_k max(log t_k, log_zero) with p = softmax(z).

    logits, targets: (b, K); log_zero: negative, stands for the logarithm of 0. Returns (b,).
    """
    log_t = targets.clamp(min=math.exp(log_zero)).log()
    return -(precise(logits).softmax(1) * log_t).sum(1)


class SymmetricCrossEntropy(Loss):
    """alpha * CE + beta * reverse CE. Source: Wang et al., arXiv:1908.06112."""

    def __init__(self, config: SceConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Tensor, examples: Examples) -> Tensor:
        targets = examples.mixed_targets()
        reverse = reverse_cross_entropy(logits, targets, self.config.log_zero)
        return self.config.alpha * cross_entropy(logits, targets) + self.config.beta * reverse
