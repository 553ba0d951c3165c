"""Early-learning regularisation: a sample's prediction stays near what it was before.

Networks learn the right labels before they memorise the wrong ones; the memory of each sample's
predictions holds on to the former. It keeps a sample's k largest classes only (16 M samples of
5,000 classes would be 320 GB, with k = 16 it is 1 GB), on every rank, and takes in the whole
step at its end: any rank may see any sample in the next epoch, and a run may change its size.

Letters: b samples, K classes, N samples of the dataset, k classes kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import ElrConfig
from trainer.learn.losses.base import Examples, Group, Loss, precise, rows_of
from trainer.learn.losses.cross_entropy import cross_entropy


def elr(probabilities: Tensor, memory: Tensor) -> Tensor:
    """log(1 - <p, t>): falls without bound as p nears the memory t.

    probabilities, memory: (b, K), rows sum to at most 1. Returns (b,), at most 0.
    Source: Liu et al., arXiv:2007.00151.
    """
    # As in the authors' code, p and t stay below 1, or their product could reach it.
    return (1 - (probabilities * memory).sum(1)).clamp(min=1e-4).log()


class Memory:
    """The k largest entries of each sample's averaged prediction. Row N is for padding."""

    def __init__(self, classes: Tensor, values: Tensor) -> None:
        self.classes, self.values = classes, values
        """(N + 1, k) int16 and float16."""

    def read(self, ids: Tensor, num_classes: int) -> Tensor:
        """(b, K) float32 averages of these samples, 0 where nothing is kept."""
        rows = rows_of(ids, len(self.classes))
        dense = torch.zeros(len(ids), num_classes, device=ids.device)
        # Empty entries are class 0 with value 0, so they add nothing.
        return dense.scatter_add_(1, self.classes[rows].long(), self.values[rows].float())

    def write(self, ids: Tensor, classes: Tensor, values: Tensor) -> None:
        """Replaces rows; of an id that occurs twice (data.sampling), one view wins."""
        rows = rows_of(ids, len(self.classes))
        self.classes[rows] = classes
        self.values[rows] = values
        self.values[-1] = 0  # of several paddings any could have won
        self.classes[-1] = 0


class EarlyLearning(Loss):
    """Cross entropy plus strength * ELR, with the memory of every sample."""

    classes: Tensor
    values: Tensor

    def __init__(self, config: ElrConfig, num_classes: int, num_samples: int) -> None:
        super().__init__()
        if num_classes > torch.iinfo(torch.int16).max:
            raise ValueError(f"ELR's memory takes up to 32,767 classes, not {num_classes}")
        self.config = config
        kept = min(config.kept_classes, num_classes)
        self.register_buffer("classes", torch.zeros(num_samples + 1, kept, dtype=torch.int16))
        self.register_buffer("values", torch.zeros(num_samples + 1, kept, dtype=torch.float16))
        self._pending: list[tuple[Tensor, Tensor]] = []

    def begin(self, seen: int) -> None:
        self._pending = []

    def forward(self, logits: Tensor, examples: Examples) -> Tensor:
        """Under mixup the own share of the picture, the larger, stands for the own picture."""
        bound = precise(logits).softmax(1).clamp(1e-4, 1 - 1e-4)
        with torch.no_grad():
            memory = Memory(self.classes, self.values).read(examples.ids, logits.shape[1])
            now = bound / bound.sum(1, keepdim=True)
            memory = self.config.beta * memory + (1 - self.config.beta) * now
            self._pending.append((examples.counted_ids(), memory))
        regularised = elr(bound, examples.mix(memory))
        plain = cross_entropy(logits, examples.mixed_targets())
        return plain + self.config.strength * regularised

    def settle(self, group: Group, keep: Tensor) -> None:
        ids = torch.cat([ids for ids, _ in self._pending])
        values, classes = torch.cat([rows for _, rows in self._pending]).topk(
            self.classes.shape[1], 1
        )
        ids = group.gather(torch.where(keep > 0, ids, -1), -1)
        classes = group.gather(classes.to(torch.int16), 0)
        values = group.gather(values.half(), 0)
        Memory(self.classes, self.values).write(ids, classes, values)
        self._pending = []
