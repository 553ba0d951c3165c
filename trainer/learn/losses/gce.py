"""Generalised cross entropy: between cross entropy (q to 0) and mean absolute error (q 1)."""

from __future__ import annotations

from torch import Tensor

from trainer.config import GceConfig
from trainer.learn.losses.base import Examples, Loss, precise


def generalised_cross_entropy(logits: Tensor, targets: Tensor, q: float) -> Tensor:
    """sum_k t_k (1 - p_k^q) / q with p = softmax(z).

    logits, targets: (b, K); q: above 0, at most 1. Returns (b,).
    Source: Zhang and Sabuncu, arXiv:1805.07836.
    """
    log_p = precise(logits).log_softmax(1)
    return -(targets * (q * log_p).expm1()).sum(1) / q


class GeneralisedCrossEntropy(Loss):
    """GCE against the web's labels."""

    def __init__(self, config: GceConfig) -> None:
        super().__init__()
        self.q = config.q

    def forward(self, logits: Tensor, examples: Examples) -> Tensor:
        return generalised_cross_entropy(logits, examples.mixed_targets(), self.q)
