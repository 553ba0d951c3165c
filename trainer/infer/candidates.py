"""What a search among ways to combine needs of the predictions, small enough to be held.

Of each picture the classes that any member finds likely, up to MOST of them: no other can come
among the first five unless all members agree on so many better ones. Letters: M members,
n pictures, K classes, C candidates of each picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.infer.answers import Answers, Floats, probabilities

MOST = 64
"""C at most."""


@dataclass(frozen=True)
class Candidates:
    """The members' answers about labelled pictures that could be read by all."""

    ids: NDArray[np.int64]
    """(n,) of the dataset."""
    labels: NDArray[np.int64]
    """(n,)"""
    classes: NDArray[np.int64]
    """(n, C) ascending."""
    p: Floats
    """(M, n, C) probabilities."""
    ranks: Floats
    """(M, n, C) how many classes the member finds likelier, C at most."""
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: NDArray[Any]) -> Candidates:
        """Of some pictures."""
        return Candidates(
            self.ids[rows], self.labels[rows], self.classes[rows], self.p[:, rows],
            self.ranks[:, rows], self.num_classes,
        )  # fmt: skip


def candidates(
    members: Sequence[Answers], labels: NDArray[np.int64], temperatures: Sequence[float]
) -> Candidates:
    """Reads the members' predictions part by part."""
    classes, p, ranks, ids = [], [], [], []
    for parts in zip(*(member.parts() for member in members), strict=True):
        span = parts[0][0]
        read = np.logical_and.reduce([part[2] for part in parts])
        each = [
            probabilities(part[1][read], member.record["form"], temperature)
            for part, member, temperature in zip(parts, members, temperatures, strict=True)
        ]
        chosen = likeliest(np.maximum.reduce(each))
        classes.append(chosen)
        p.append(np.stack([np.take_along_axis(q, chosen, 1) for q in each]))
        ranks.append(np.stack([ranked(q, chosen) for q in each]))
        ids.append(span.first + np.flatnonzero(read))
    kept = np.concatenate(ids)
    return Candidates(
        kept, labels[kept], np.concatenate(classes), np.concatenate(p, 1),
        np.concatenate(ranks, 1), members[0].record["num_classes"],
    )  # fmt: skip


def likeliest(p: Floats) -> NDArray[np.int64]:
    """(n, C) the likeliest classes, ascending. p: (n, K)."""
    if p.shape[1] <= MOST:
        return np.tile(np.arange(p.shape[1]), (len(p), 1))
    found: NDArray[np.int64] = np.sort(np.argpartition(p, -MOST, 1)[:, -MOST:], 1)
    return found


def ranked(p: Floats, classes: NDArray[np.int64]) -> Floats:
    """(n, C) how many classes are likelier than each of these, at most MOST. p: (n, K)."""
    most = min(MOST, p.shape[1])
    best = -np.sort(-np.partition(p, -most, 1)[:, -most:], 1)
    own = np.take_along_axis(p, classes, 1)
    found: Floats = (best[:, None, :] > own[:, :, None]).sum(2).astype(np.float32)
    return found
