"""The mean margin of each sample over the run: low where the label is probably wrong.

The area under the margin (AUM): a mislabelled picture's own logit is held down all along by those
that are like it. Source: Pleiss et al., arXiv:2001.10528.

Letters: b samples of a micro-batch, K classes, N samples of the dataset.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.learn.losses import Examples, Group, precise, rows_of


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """(b,) the logit of the label less the largest other one. logits: (b, K); labels: (b,)."""
    own = labels[:, None]
    others = precise(logits).scatter(1, own, -torch.inf)
    return precise(logits).gather(1, own)[:, 0] - others.amax(1)


class Margins(nn.Module):
    """Sums and counts by sample, the same on every rank. Row N is for padding.

    Of mixed pictures the own label's margin is taken, whose share is the larger one.
    """

    total: Tensor
    count: Tensor

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(num_samples + 1))
        self.register_buffer("count", torch.zeros(num_samples + 1, dtype=torch.int32))
        self._pending: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def collect(self, logits: Tensor, examples: Examples) -> None:
        """Takes in a micro-batch."""
        self._pending.append((examples.counted_ids(), margins(logits, examples.labels).float()))

    def settle(self, group: Group, keep: Tensor) -> None:
        """Ends a step: its samples of all ranks; none where keep (a scalar) is 0."""
        ids = torch.cat([ids for ids, _ in self._pending])
        found = torch.cat([margin for _, margin in self._pending])
        self._pending = []
        ids = group.gather(torch.where(keep > 0, ids, -1), -1)
        found = group.gather(found, 0)
        rows = rows_of(ids, len(self.total))
        # Under data.sampling an id may occur twice in a step.
        self.total.index_add_(0, rows, found)
        self.count.index_add_(0, rows, torch.ones_like(rows, dtype=torch.int32))
        for kept in (self.total, self.count):
            kept[-1].zero_()  # assigning a number would wait for the device

    def means(self) -> Tensor:
        """(N,) mean margins; not a number for samples that were not trained on."""
        return mean_margins(self.total, self.count)


def mean_margins(total: Tensor, count: Tensor) -> Tensor:
    """(N,) means of what `Margins` keeps: its buffers, (N + 1,) each."""
    return (total / count)[:-1]
