"""How good predictions are: hits among the first ones, plain or averaged over classes.

Letters: n pictures, C candidates of each, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import Objective

DRAWS = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of a 95 % interval."""


@dataclass(frozen=True)
class Interval:
    """A figure and where it would lie with other pictures of the same kind, 95 times of 100."""

    value: float
    low: float
    high: float


def places(
    scores: NDArray[Any], classes: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(n,) at which place the right class stands, from 0; of equals the lower class is first.

    A class that is no candidate stands behind them all. scores, classes: (n, C).
    """
    own = classes == labels[:, None]
    score = np.where(own, scores, -np.inf).max(1)[:, None]
    better = (scores > score) | ((scores == score) & (classes < labels[:, None]))
    found: NDArray[np.int64] = better.sum(1)
    return np.where(own.any(1), found, scores.shape[1])


def hits(place: NDArray[np.int64], objective: Objective) -> NDArray[np.bool_]:
    """(n,) whether the right class is among the first that count."""
    return place < (5 if objective.endswith("top5") else 1)


def shares(labels: NDArray[np.int64], objective: Objective) -> NDArray[np.float64]:
    """(n,) what each picture counts; they add up to 1. By class, each class counts the same."""
    if not objective.startswith("class"):
        return np.full(len(labels), 1 / max(1, len(labels)))
    counts = np.bincount(labels)
    present = max(1, int((counts > 0).sum()))
    found: NDArray[np.float64] = 1 / (counts[labels] * float(present))
    return found


def score(place: NDArray[np.int64], labels: NDArray[np.int64], objective: Objective) -> float:
    """Share of hits, 0 to 1."""
    return float(shares(labels, objective) @ hits(place, objective))


def interval(
    right: NDArray[Any], labels: NDArray[np.int64], objective: Objective, seed: int = 0
) -> Interval:
    """The mean of hits (0, 1), or of differences of two methods' hits (-1, 0, 1), bootstrapped.

    Drawing pictures anew only changes how many there are of each value (within a class, where
    classes count the same), and these counts are multinomial: they are drawn instead.
    """
    draw = np.random.default_rng(seed)
    groups = labels if objective.startswith("class") else np.zeros_like(labels)
    present = np.unique(groups)
    values = np.array([-1, 0, 1])
    means = np.zeros((len(present), DRAWS))
    for row, group in zip(means, present, strict=True):
        own = right[groups == group].astype(np.int64)
        counts = np.array([(own == value).sum() for value in values])
        row[:] = draw.multinomial(len(own), counts / len(own), DRAWS) @ values / len(own)
    low, high = np.percentile(means.mean(0), INTERVAL)
    value = float(shares(labels, objective) @ right.astype(np.float64))
    return Interval(value, float(low), float(high))
