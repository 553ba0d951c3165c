"""The long tail: rare classes count more, or the logits take their frequency in.

Around any other loss. Letters: b samples, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import BalanceConfig
from trainer.learn.losses.base import Examples, Group, Loss


def inverse_frequency(counts: Tensor, power: float) -> Tensor:
    """(K,) weights in proportion to count^-power, whose mean over the samples is 1.

    counts: (K,) samples of each class. A class without any has weight 0. power 1 makes all
    classes count the same, 0 all samples.
    """
    exact = counts.double()
    raw = torch.where(exact > 0, exact.clamp(min=1) ** -power, torch.zeros_like(exact))
    return (raw * exact.sum() / (raw * exact).sum()).float()


def log_prior(counts: Tensor) -> Tensor:
    """(K,) log of each class's share of the samples; a class without any counts as half a sample.

    counts: (K,).
    """
    exact = counts.double().clamp(min=0.5)
    return (exact / exact.sum()).log().float()


class Balanced(Loss):
    """A loss with inverse-frequency weights, or with logits raised by tau * log prior.

    Raised logits make training fit the frequencies, so that the plain logits of an evaluation
    are free of them. Sources: Menon et al., arXiv:2007.07314 (logit adjustment); Ren et al.,
    arXiv:2007.10740 (balanced softmax: tau 1).
    """

    raised: Tensor
    weights: Tensor

    def __init__(self, loss: Loss, config: BalanceConfig, counts: Tensor) -> None:
        super().__init__()
        self.loss = loss
        tau = {"logit_adjustment": config.tau, "balanced_softmax": 1.0}.get(config.kind, 0.0)
        power = config.power if config.kind == "inverse_frequency" else 0.0
        # What the dataset gives is no state of the run.
        self.register_buffer("raised", tau * log_prior(counts), persistent=False)
        self.register_buffer("weights", inverse_frequency(counts, power), persistent=False)

    @property
    def teacher(self) -> bool:
        return self.loss.teacher

    @property
    def needs_average(self) -> bool:
        return self.loss.needs_average

    def begin(self, seen: int) -> None:
        self.loss.begin(seen)

    def forward(self, logits: Tensor, examples: Examples) -> Tensor:
        if examples.teacher is not None:
            # A teacher's plain logits are free of the frequencies too.
            examples = examples.with_teacher(examples.teacher.float() + self.raised)
        each = self.loss(logits + self.raised, examples)
        weighted: Tensor = examples.mix(self.weights[examples.labels]) * each
        return weighted

    def settle(self, group: Group, keep: Tensor) -> None:
        self.loss.settle(group, keep)

    def figures(self) -> dict[str, Tensor]:
        return self.loss.figures()

    def alarm(self, figures: dict[str, float]) -> str:
        return self.loss.alarm(figures)
