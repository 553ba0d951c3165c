"""How good a run and an ensemble of runs are expected to be: a simple model, in percent of top-1.

One run: top1 - EPOCH_LOSS * (1 / epochs - 1 / 150) + SIZE_GAIN * log2(size / the network's own).
Both terms are concave: each further epoch and pixel gives less than the one before.

An ensemble: its best member, plus MEMBER_GAIN / (k - 1) for the k-th member, less REPEAT_LOSS for
each member whose family is there already, less WEAKNESS of what each member is below the best
run that fits. The k-th member helps less than the one before, one of a new family more than one
that errs alike, and a weak one less than a strong one.

The networks' own top1 is data (networks.yaml). The constants below are assumptions, each with what
it leans on; a plan's order of networks depends on them, its GPU-days do not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

REFERENCE_EPOCHS = 150.0
"""BigVideo's length, at which `top1` is taken to hold."""

EPOCH_LOSS = 250.0
"""Percent times epochs. ResNet-50's 78.1, 79.8, 80.4 % at 100, 300, 600 epochs (Wightman et al.,
arXiv:2110.00476) give 255 and 360; the lower one, since 16 M images need fewer passes."""

SIZE_GAIN = 2.0
"""Percent for each doubling of the side. Assumption."""

MEMBER_GAIN = 0.8
"""Percent that the second member adds; seven add 2.0 together. Assumption."""

REPEAT_LOSS = 0.1
"""Percent that a member of a family that is there already adds less. Assumption."""

WEAKNESS = 0.03
"""Of the distance to the best run that fits, lost by averaging a weaker member in. Assumption."""


class Member(Protocol):
    """What the model must know of a run."""

    @property
    def family(self) -> str: ...
    @property
    def top1(self) -> float: ...


def run_top1(top1: float, own_size_px: int, size_px: int, epochs: float) -> float:
    """Expected top-1 of one run, percent, from the network's at its own size and 150 epochs."""
    of_epochs = EPOCH_LOSS * (1 / epochs - 1 / REFERENCE_EPOCHS)
    of_size = SIZE_GAIN * math.log2(size_px / own_size_px)
    return min(100.0, max(0.0, top1 - of_epochs + of_size))


def member_gain(k: int) -> float:
    """What the k-th member adds (k from 2), percent."""
    return MEMBER_GAIN / (k - 1)


def weakness(top1: float, best_top1: float) -> float:
    """What a member costs by being below the best run that fits, percent."""
    return WEAKNESS * (best_top1 - top1)


def ensemble_top1(members: Sequence[Member], best_top1: float) -> float:
    """Expected top-1 of an ensemble, percent; 0 without members.

    best_top1: of the best run that fits the limits by itself, whether it is a member or not.
    """
    if not members:
        return 0.0
    families = Counter(member.family for member in members)
    repeats = len(members) - len(families)
    gains = sum(member_gain(k) for k in range(2, len(members) + 1))
    losses = sum(weakness(member.top1, best_top1) for member in members)
    return max(m.top1 for m in members) + gains - REPEAT_LOSS * repeats - losses
