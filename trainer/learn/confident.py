"""Which labels are probably wrong, and how often each class is, by a network's probabilities.

Confident learning: a sample is counted under the class that it is likelier of than that class'
samples are on average. Pure arithmetic on arrays; source: Northcutt et al., arXiv:1911.00068.

Letters: N samples, K classes, k largest probabilities kept of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNCLEAR = -1
"""Of a sample that is confidently of no class."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Opinions:
    """What a network, or several, say of each sample."""

    labels: Ints
    """(N,) from the web."""
    own: Floats
    """(N,) probability of the label."""
    classes: Ints
    """(N, k) the likeliest classes, likeliest first."""
    probabilities: Floats
    """(N, k) of those."""
    seen: NDArray[np.bool_]
    """(N,) whether the picture could be read; the others count nowhere."""


@dataclass(frozen=True)
class Noise:
    """What follows from opinions."""

    thresholds: Floats
    """(K,) mean probability of the label among the samples of each class; 1 without any."""
    confident: Ints
    """(N,) the class that a sample is confidently of, or UNCLEAR."""
    joint: NDArray[np.float64]
    """(K, K) estimated samples by label and true class; rows sum to the labels' counts."""
    weights: Floats
    """(N,) 1, less for those that are confidently of another class: their label's share of both."""

    def rates(self) -> NDArray[np.float64]:
        """(K,) estimated share of wrong labels in each class; 0 without samples."""
        totals = self.joint.sum(1)
        right: NDArray[np.float64] = np.diag(self.joint) / np.maximum(totals, 1e-12)
        return np.where(totals > 0, 1 - right, 0.0)

    def rate(self) -> float:
        """Estimated share of wrong labels in all."""
        total = float(self.joint.sum())
        return 1 - float(np.diag(self.joint).sum()) / total if total else 0.0


def judge(opinions: Opinions, num_classes: int) -> Noise:
    """The noise by these opinions."""
    thresholds = _thresholds(opinions, num_classes)
    confident = _confident(opinions, thresholds)
    clear = confident != UNCLEAR
    counted = np.zeros((num_classes, num_classes))
    np.add.at(counted, (opinions.labels[clear], confident[clear]), 1.0)
    totals = np.bincount(opinions.labels[opinions.seen], minlength=num_classes)
    found = counted.sum(1)
    # A class of which no sample is clear is taken as it is labelled.
    nothing = np.flatnonzero(found == 0)
    counted[nothing, nothing] = 1
    joint = counted / counted.sum(1, keepdims=True) * totals[:, None]
    return Noise(thresholds, confident, joint, _weights(opinions, confident))


def _thresholds(opinions: Opinions, num_classes: int) -> Floats:
    labels, own = opinions.labels[opinions.seen], opinions.own[opinions.seen]
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, own, minlength=num_classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), 1.0).astype(np.float32)


def _confident(opinions: Opinions, thresholds: Floats) -> Ints:
    """The likeliest class above its threshold; the label may be one below the k kept."""
    above = opinions.probabilities >= thresholds[opinions.classes]
    first = above.argmax(1)
    rows = np.arange(len(opinions.labels))
    found = np.where(above.any(1), opinions.classes[rows, first], UNCLEAR)
    likely = np.where(found == UNCLEAR, -1.0, opinions.probabilities[rows, first])
    own = (opinions.own >= thresholds[opinions.labels]) & (opinions.own > likely)
    return np.where(opinions.seen, np.where(own, opinions.labels, found), UNCLEAR)


def _weights(opinions: Opinions, confident: Ints) -> Floats:
    wrong = (confident != UNCLEAR) & (confident != opinions.labels)
    matches = opinions.classes == confident[:, None]
    other = np.where(matches, opinions.probabilities, 0.0).sum(1)
    share = opinions.own / np.maximum(opinions.own + other, 1e-12)
    return np.where(wrong, share, 1.0).astype(np.float32)


def worst(opinions: Opinions, noise: Noise, count: int, margins: Floats | None = None) -> Ints:
    """The ids whose label is likeliest wrong: by mean margin where there is one, else by weight."""
    wrong = (noise.confident != UNCLEAR) & (noise.confident != opinions.labels)
    score = noise.weights if margins is None else np.nan_to_num(margins, nan=np.inf)
    ids = np.flatnonzero(wrong & np.isfinite(score))
    return ids[np.argsort(score[ids], kind="stable")][:count]
