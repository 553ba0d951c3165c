"""Gradient harmonising: samples weigh less where many have the same gradient norm.

So both the very easy and the very hard, which are probably mislabelled, count less. The density
comes from a histogram of the steps before, over all ranks.

Letters: b samples, K classes, M bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import GhmConfig
from trainer.learn.losses.base import Examples, Group, Loss, precise
from trainer.learn.losses.binary import binary_cross_entropy
from trainer.learn.losses.cross_entropy import cross_entropy


def softmax_norms(logits: Tensor, targets: Tensor) -> Tensor:
    """(b,) 0.5 sum_k |p_k - t_k|: half the L1 norm of CE's gradient, 1 - p_y for a hard label."""
    return 0.5 * (precise(logits).softmax(1) - targets).abs().sum(1)


def sigmoid_norms(logits: Tensor, targets: Tensor) -> Tensor:
    """(b, K) |sigmoid(z_k) - t_k|: the gradient of each logit's cross entropy."""
    return (precise(logits).sigmoid() - targets).abs()


def histogram(norms: Tensor, counted: Tensor, num_bins: int) -> Tensor:
    """How many elements fall in each of M equal bins over 0-1.

    norms: (b,) or (b, K); counted: (b,) 1.0 or 0.0 a sample. Returns (M,) float64. No read from
    the device, which bincount would need.
    """
    elements = counted.view(-1, *[1] * (norms.ndim - 1)).expand_as(norms)
    empty = torch.zeros(num_bins, dtype=torch.float64, device=norms.device)
    bins = bin_of(norms, num_bins).flatten()
    return empty.index_add_(0, bins, elements.flatten().double())


def bin_of(norms: Tensor, num_bins: int) -> Tensor:
    """The bin of each norm, as int64; 1 falls in the last, and so does what is not a number."""
    return (norms.nan_to_num(1.0) * num_bins).long().clamp(0, num_bins - 1)


def harmonised(norms: Tensor, counts: Tensor) -> Tensor:
    """The weight of each element: total / (count of its bin * number of bins that are not empty).

    counts: (M,). The weights' mean over what was counted is 1, and all are 1 where nothing was. A
    bin counts at least 1: the element itself. Returns the shape of norms, in float32.
    Source: Li et al., arXiv:1811.05181; the divisor is mmdetection's, where the paper has all M.
    """
    filled = (counts > 0).sum().clamp(min=1)
    weights = counts.sum() / (counts.clamp(min=1.0) * filled)
    weights = torch.where(counts.sum() > 0, weights, torch.ones_like(weights))
    return weights.float()[bin_of(norms, len(counts))]


class Ghm(Loss):
    """GHM-C over softmax or over K sigmoids; plain cross entropy during its warm-up."""

    counts: Tensor
    updates: Tensor

    def __init__(self, config: GhmConfig, epoch_samples: int) -> None:
        super().__init__()
        self.config = config
        self.warmup_samples = config.warmup_epochs * epoch_samples
        self.warming = True
        self.register_buffer("counts", torch.zeros(config.bins, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.float64))
        self._pending: Tensor | None = None

    def begin(self, seen: int) -> None:
        self.warming = seen < self.warmup_samples or seen == 0
        self._pending = torch.zeros_like(self.counts)

    def forward(self, logits: Tensor, examples: Examples) -> Tensor:
        targets = examples.mixed_targets()
        sigmoid = self.config.form == "sigmoid"
        with torch.no_grad():
            norms = (sigmoid_norms if sigmoid else softmax_norms)(logits, targets)
            if self._pending is not None:
                self._pending += histogram(norms, examples.counted, self.config.bins)
        if self.warming:
            return (binary_cross_entropy if sigmoid else cross_entropy)(logits, targets)
        weights = harmonised(norms, self.density())
        if sigmoid:
            return binary_cross_entropy(logits, targets, weights)
        return weights * cross_entropy(logits, targets)

    def density(self) -> Tensor:
        """(M,) the histogram's average, free of the zeros it began with."""
        return self.counts / (1 - self.config.momentum ** self.updates.clamp(min=1.0))

    def settle(self, group: Group, keep: Tensor) -> None:
        assert self._pending is not None, "begin comes before a step"
        found = group.sum(self._pending)
        # Bins that are empty now fade as all others do.
        moved = torch.lerp(found, self.counts, self.config.momentum)
        self.counts.copy_(torch.where(keep > 0, moved, self.counts))
        self.updates += keep
        self._pending = None
