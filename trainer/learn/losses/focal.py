"""Focal loss: less weight for what is easy. It raises mislabelled samples too."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from trainer.config import FocalConfig
from trainer.learn.losses.base import Examples, Loss, precise


def focal(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """-sum_k t_k (1 - p_k)^gamma log p_k with p = softmax(z); gamma 0 is cross entropy.

    logits, targets: (b, K); gamma: at least 0. Returns (b,). Source: Lin et al., arXiv:1708.02002.
    """
    log_p = precise(logits).log_softmax(1)
    # 1 - p by expm1 keeps its digits where p is nearly 1; the floor keeps the slope finite there.
    missing = (-log_p.expm1()).clamp(min=1e-12)
    return -(targets * missing**gamma * log_p).sum(1)


def sigmoid_focal(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """sum_k (alpha t_k + (1 - alpha)(1 - t_k)) m_k^gamma BCE_k, m = (1 - p) t + p (1 - t).

    logits, targets: (b, K), p = sigmoid(z); alpha: 0-1, the weight of the positive class.
    Returns (b,). Source: Lin et al., arXiv:1708.02002, in the form of mmpretrain's code.
    """
    exact = precise(logits)
    soft = targets.to(exact)
    p = exact.sigmoid()
    missing = (1 - p) * soft + p * (1 - soft)
    balance = alpha * soft + (1 - alpha) * (1 - soft)
    each = functional.binary_cross_entropy_with_logits(exact, soft, reduction="none")
    return (balance * missing**gamma * each).sum(1)


class Focal(Loss):
    """Focal loss against the web's labels, over softmax or over K sigmoids."""

    def __init__(self, config: FocalConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Tensor, examples: Examples) -> Tensor:
        targets = examples.mixed_targets()
        if self.config.form == "sigmoid":
            return sigmoid_focal(logits, targets, self.config.gamma, self.config.alpha)
        return focal(logits, targets, self.config.gamma)
