"""Bootstrapping: part of the target is what the network says itself."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

from trainer.config import BootstrapConfig
from trainer.learn.losses.base import Examples, Loss, precise


def bootstrap(logits: Tensor, targets: Tensor, beta: float, *, hard: bool) -> Tensor:
    """-sum_k (beta t_k + (1 - beta) s_k) log p_k; s is p = softmax(z), or 1 at its largest.

    logits, targets: (b, K); beta: 0-1, 1 is cross entropy. Returns (b,). In the soft form the
    gradient goes through s too, which makes it cross entropy with less entropy of p.
    Source: Reed et al., arXiv:1412.6596.
    """
    log_p = precise(logits).log_softmax(1)
    own = one_hot(log_p.argmax(1), log_p.shape[1]).to(log_p) if hard else log_p.exp()
    return -((beta * targets + (1 - beta) * own) * log_p).sum(1)


class Bootstrap(Loss):
    """Bootstrapping against the web's labels."""

    def __init__(self, config: BootstrapConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Tensor, examples: Examples) -> Tensor:
        hard = self.config.form == "hard"
        return bootstrap(logits, examples.mixed_targets(), self.config.beta, hard=hard)
