"""How much to trust a network's probabilities: one temperature for each, and the error before and
after. Guo et al., arXiv:1706.04599.

Letters: n pictures, K classes, T temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.infer.answers import Answers, probabilities

GRID = np.geomspace(0.1, 10, 49)
"""Temperatures tried; the best one is refined between its neighbours."""
PICTURES = 10_000
"""Pictures that a temperature is fitted on, at most."""
BINS = 15
"""Of equal width, for the calibration error."""


@dataclass(frozen=True)
class Calibration:
    """What a temperature does for a member."""

    temperature: float
    """Below 1: it was too modest; above: too sure."""
    ece_before: float
    """Expected calibration error, a ratio 0-1."""
    ece_after: float
    """The same for pictures on which the temperature was not fitted."""


@dataclass(frozen=True)
class _Sample:
    """What is known of some pictures at each temperature of the grid."""

    losses: NDArray[np.float64]
    """(n, T) negative log likelihood of the label."""
    sure: NDArray[np.float64]
    """(n, T) probability of the likeliest class."""
    right: NDArray[np.bool_]
    """(n,) whether that is the label."""


def calibrate(member: Answers, labels: NDArray[np.int64], folds: NDArray[np.int64]) -> Calibration:
    """A member's temperature. folds: (N,) which part of the pictures each of the dataset is in."""
    sample, fold = _sample(member, labels, folds)
    after = np.zeros(len(fold))
    for held in np.unique(fold):
        at = _best(sample.losses[fold != held].mean(0))
        after[fold == held] = _at(sample.sure[fold == held], at)
    one = int(np.argmin(np.abs(np.log(GRID))))
    place = _best(sample.losses.mean(0))
    temperature = float(np.exp(np.interp(place, np.arange(len(GRID)), np.log(GRID))))
    before = calibration_error(sample.sure[:, one], sample.right)
    return Calibration(temperature, before, calibration_error(after, sample.right))


def _sample(
    member: Answers, labels: NDArray[np.int64], folds: NDArray[np.int64]
) -> tuple[_Sample, NDArray[np.int64]]:
    """Of up to PICTURES pictures, evenly over the dataset, and their folds."""
    every = max(1, len(labels) // PICTURES)
    losses, sure, right, fold = [], [], [], []
    for span, values, read in member.parts():
        rows = np.flatnonzero(read & (np.arange(span.first, span.first + span.rows) % every == 0))
        own = labels[span.ids][rows]
        answers = [probabilities(values[rows], member.record["form"], t) for t in GRID]
        likely = [np.take_along_axis(p, own[:, None], 1)[:, 0].astype(np.float64) for p in answers]
        losses.append(-np.log(np.maximum(np.stack(likely, 1), 1e-12)))
        sure.append(np.stack([p.max(1) for p in answers], 1).astype(np.float64))
        right.append(answers[0].argmax(1) == own)
        fold.append(folds[span.ids][rows])
    found = _Sample(np.concatenate(losses), np.concatenate(sure), np.concatenate(right))
    return found, np.concatenate(fold)


def _best(losses: NDArray[Any]) -> float:
    """Place in the grid, between its points, of the least loss: a parabola through three."""
    i = int(np.argmin(losses))
    if not 0 < i < len(losses) - 1:
        return float(i)
    left, middle, right = losses[i - 1 : i + 2]
    return i + 0.5 * float((left - right) / (left - 2 * middle + right))


def _at(values: NDArray[np.float64], place: float) -> NDArray[np.float64]:
    """(n,) between two columns of (n, T)."""
    low = min(int(place), values.shape[1] - 2)
    share = place - low
    found: NDArray[np.float64] = (1 - share) * values[:, low] + share * values[:, low + 1]
    return found


def calibration_error(sure: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean over bins of confidence of |accuracy - confidence|, each bin by its pictures."""
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, right - sure, BINS)
    return float(np.abs(gaps).sum() / max(1, len(sure)))
