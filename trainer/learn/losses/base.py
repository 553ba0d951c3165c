"""What a loss is given and what it may keep. No loss is here.

A loss gives one value a sample, so that a weight or a mask can still be put on each. What it
learns from a step (a histogram, a memory) it collects per micro-batch and settles once a step,
over all ranks: then a run of one worker that accumulates and a run of many do the same. So
weights that depend on other samples come from the steps before, never from the one in hand.

Letters: b samples of a micro-batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn


class Group(Protocol):
    """The ranks, as far as a loss needs them."""

    def sum(self, values: Tensor) -> Tensor:
        """Values of the same shape on every rank, added up."""

    def gather(self, rows: Tensor, fill: int) -> Tensor:
        """(n, ...) rows of all ranks, of (m, ...), in their order; `fill` where one has less."""


@dataclass(frozen=True)
class Examples:
    """A micro-batch beside its logits.

    Pictures are mixed with their mirror in the batch; labels, targets, ids and teacher's logits
    belong to the own picture, before it was mixed.
    """

    labels: Tensor
    """(b,) int64, from the web."""
    targets: Tensor
    """(b, K), non-negative rows that sum to 1: the labels, perhaps smoothed."""
    ids: Tensor
    """(b,) int64 rows of the dataset's index; -1 for padding."""
    counted: Tensor
    """(b,) 1.0 for a sample that counts, 0.0 for padding, a damaged one, or a weight of 0."""
    shares: Tensor | None = None
    """(b,) share of the own target in the mixed one; None where nothing is mixed."""
    teacher: Tensor | None = None
    """(b, K) a teacher's logits for the own, unmixed picture."""

    def mix(self, values: Tensor) -> Tensor:
        """(b, ...) per picture to the same per mixed picture."""
        if self.shares is None:
            return values
        shares = self.shares.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
        return torch.lerp(values.flip(0), values, shares)

    def mixed_targets(self) -> Tensor:
        """(b, K) the targets of the mixed pictures."""
        return self.mix(self.targets)

    def counted_ids(self) -> Tensor:
        """(b,) the ids, -1 for all that does not count."""
        return torch.where(self.counted > 0, self.ids, -1)

    def with_teacher(self, logits: Tensor | None) -> Examples:
        """The same with other logits of the teacher."""
        return replace(self, teacher=logits)


class Loss(nn.Module):
    """One value a sample. Its buffers are kept by checkpoints as loss.*"""

    @property
    def teacher(self) -> bool:
        """Whether examples of the step that has begun must carry a teacher's logits."""
        return False

    @property
    def needs_average(self) -> bool:
        """Whether its teacher is the run's averaged weights."""
        return False

    def begin(self, seen: int) -> None:
        """Called before a step with the samples seen so far in the run."""

    def forward(self, logits: Tensor, examples: Examples) -> Tensor:
        """(b, K) logits of the mixed pictures to (b,) losses, in float32 at least."""
        raise NotImplementedError

    def settle(self, group: Group, keep: Tensor) -> None:
        """Ends a step: takes in what its micro-batches gave, over all ranks.

        Every rank calls it. keep: scalar, 1.0, or 0.0 where the step was skipped since a gradient
        was not finite; then everything stays as it was.
        """

    def figures(self) -> dict[str, Tensor]:
        """Scalars worth telling, by name; the same on every rank. Read at intervals."""
        return {}

    def alarm(self, figures: dict[str, float]) -> str:
        """What is wrong by the figures read, and what to do; empty where nothing is."""
        return ""


def rows_of(ids: Tensor, num_rows: int) -> Tensor:
    """The rows of ids in a table whose last row is for padding, which has the id -1."""
    return torch.where(ids < 0, num_rows - 1, ids)


def precise(values: Tensor) -> Tensor:
    """In float32 at least: bf16 logarithms are too coarse for a loss."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def one_hot(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Targets with 1 - smoothing at the label and smoothing spread evenly over all classes.

    labels: (b,) int64; smoothing: 0-1. Returns (b, K) float32.
    Source: Szegedy et al., arXiv:1512.00567.
    """
    targets = torch.full((len(labels), num_classes), smoothing / num_classes, device=labels.device)
    return targets.scatter_add_(
        1, labels[:, None], torch.full_like(targets[:, :1], 1.0 - smoothing)
    )


def at_labels(values: Tensor, labels: Tensor) -> Tensor:
    """(b,) the value of each row of (b, K) at its label."""
    return values.gather(1, labels[:, None])[:, 0]
