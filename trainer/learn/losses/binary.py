"""Sigmoid cross entropy: K yes-or-no questions, the base loss of SCC's authors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from trainer.learn.losses.base import Examples, Loss, precise


def binary_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """sum_k -w_k (t_k log sigmoid(z_k) + (1 - t_k) log(1 - sigmoid(z_k))): a sum over classes.

    logits, targets, weights: (b, K), no weights are 1. Returns (b,).
    Source: the published code of SCC, arXiv:2008.11894.
    """
    exact = precise(logits)
    soft = targets.to(exact)
    return functional.binary_cross_entropy_with_logits(exact, soft, weights, reduction="none").sum(
        1
    )


class BinaryCrossEntropy(Loss):
    """Sigmoid cross entropy against the web's labels."""

    def forward(self, logits: Tensor, examples: Examples) -> Tensor:
        return binary_cross_entropy(logits, examples.mixed_targets())
