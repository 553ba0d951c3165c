"""How often a network is right, over a dataset that the ranks share out, each sample once.

Letters: b samples of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.config import InputConfig
from trainer.data.stream import Batch
from trainer.learn.engine import State, autocast, normalise, share_buffers
from trainer.learn.losses import cross_entropy, one_hot
from trainer.world import World


@dataclass(frozen=True)
class Accuracy:
    """Result of an evaluation; all ratios 0-1.

    Plain means average over pictures, class means over classes that have pictures
    (WebVision's measure since 2018: classes are of unequal size).
    """

    loss: float
    top1: float
    top5: float
    class_top1: float
    class_top5: float
    num_samples: int


@torch.no_grad()
def evaluate(state: State, batches: Iterator[Batch], num_classes: int) -> Accuracy:
    """Accuracy of a run's averaged weights.

    Every rank must call it. The network's own weights are as before afterwards.
    """
    share_buffers(state)
    own = {name: value.clone() for name, value in state.network.state_dict().items()}
    state.network.load_state_dict(state.ema)
    result = measure(
        state.network,
        batches,
        num_classes,
        world=state.world,
        input=state.input,
        precision=state.precision,
        layout=state.layout,
    )
    state.network.load_state_dict(own)
    return result


@torch.no_grad()
def measure(
    network: nn.Module,
    batches: Iterator[Batch],
    num_classes: int,
    *,
    world: World,
    input: InputConfig,
    precision: str,
    layout: str,
) -> Accuracy:
    """Accuracy of a network, which is in evaluation mode afterwards. Every rank must call it."""
    network.eval()
    # Per class: pictures, right at 1, right at 5; and the loss in the first of one more row.
    counts = torch.zeros(num_classes + 1, 3, dtype=torch.float64, device=world.device)
    ranks = min(5, num_classes)
    for batch in batches:
        pixels = normalise(batch.pixels, input, world.device, layout)
        labels = batch.labels.to(world.device, non_blocking=True)
        present = (batch.weights > 0).to(world.device, non_blocking=True).double()
        with autocast(precision, world.device):
            logits = network(pixels)
        hits = logits.float().topk(ranks, 1).indices == labels[:, None]
        row = torch.stack([present, present * hits[:, 0], present * hits.any(1)], 1)
        counts.index_add_(0, labels, row)
        each = cross_entropy(logits, one_hot(labels, logits.shape[1]))
        counts[-1, 0] += (each * present).sum()
    return _accuracy(world.sum(counts))


def _accuracy(counts: Tensor) -> Accuracy:
    """counts: (K + 1, 3) as evaluate adds them up."""
    total, right1, right5 = counts[:-1].sum(0).tolist()
    filled = counts[:-1][counts[:-1, 0] > 0]
    means = filled[:, 1:] / filled[:, :1]
    class1, class5 = means.mean(0).tolist() if len(means) else (0.0, 0.0)
    most = max(total, 1.0)
    loss = float(counts[-1, 0]) / most
    return Accuracy(loss, right1 / most, right5 / most, class1, class5, int(total))
