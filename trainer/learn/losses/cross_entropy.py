"""Cross entropy with soft targets: the base line, and the part that most other losses add to."""

from __future__ import annotations

from torch import Tensor

from trainer.learn.losses.base import Examples, Loss, precise


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-sum_k t_k log softmax(z)_k.

    logits, targets: (b, K). Returns (b,).
    """
    return -(targets * precise(logits).log_softmax(1)).sum(1)


class CrossEntropy(Loss):
    """Cross entropy against the web's labels."""

    def forward(self, logits: Tensor, examples: Examples) -> Tensor:
        return cross_entropy(logits, examples.mixed_targets())
