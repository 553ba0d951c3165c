"""Learning rate and averaging over a run, as functions of the samples seen.

Samples, not updates: workers come and go, and the last update of an epoch is short.
"""

from __future__ import annotations

import math

from trainer.config import OptimConfig


def learning_rate(config: OptimConfig, seen: int, total: int, epoch_samples: int) -> float:
    """The rate for the update that begins at `seen` of `total` samples.

    Rises linearly over warmup_epochs, then falls along a cosine to lr_end.
    Source: Loshchilov and Hutter, arXiv:1608.03983; warm-up: Goyal et al., arXiv:1706.02677.
    """
    warmup = min(config.warmup_epochs * epoch_samples, total)
    if seen < warmup:
        return config.lr * (seen + 1) / (warmup + 1)
    progress = min(1.0, (seen - warmup) / max(1.0, total - warmup))
    return config.lr_end + (config.lr - config.lr_end) * (1 + math.cos(math.pi * progress)) / 2


def ema_decay(half_life_samples: float, num_samples: int, updates: int) -> float:
    """Share of the average that an update of num_samples leaves; 0 copies the weights.

    The decay rises from 0.1 over the first updates, or the random initial weights would stay in
    the average for half-lives. updates: those done before this one.
    """
    if half_life_samples <= 0:
        return 0.0
    settled = 0.5 ** (num_samples / half_life_samples)
    return float(min(settled, (1 + updates) / (10 + updates)))
