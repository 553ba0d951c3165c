"""From scores to probabilities that labels are right: two normal distributions in each class.

The lower one is of wrong labels, the upper one of right ones. Classes of few samples lean on the
mixture of all samples (a prior of a few pseudo-samples), so that none runs away. Pure arithmetic.

Letters: N samples, K classes; component 0 is wrong, 1 is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

ITERATIONS = 60
PRIOR_SAMPLES = 400.0
"""Samples that the mixture of all counts as in each class."""
LEAST_SPREAD = 0.02
"""Smallest standard deviation, as a share of that of all scores."""
FAR = 100.0
"""Standard deviations from the means beyond which a score tells no more."""
LEAST, MOST = 1e-3, 1 - 1e-3
"""Probabilities end here: no score is proof."""
BLOCK = 1 << 18
"""Samples that are worked on at once: of 16 M, each temporary array would take 128 MB or more."""


@dataclass(frozen=True)
class Mixture:
    """The fit of each class; all (K, 2) but `right`."""

    means: Floats
    spreads: Floats
    """Standard deviations."""
    right: Floats
    """(K,) share of right labels."""

    def probability(self, scores: Floats, labels: Labels) -> Floats:
        """(N,) that the label is right; it never falls as the score rises."""
        found = np.empty(len(scores))
        for part in blocks(len(scores)):
            found[part] = self._probability(scores[part], labels[part])
        return found

    def _probability(self, scores: Floats, labels: Labels) -> Floats:
        mean, spread = self.means[labels], self.spreads[labels]
        held = _on_the_rising_side(scores, mean, spread)
        odds = _density(held, mean[:, 1], spread[:, 1]) - _density(held, mean[:, 0], spread[:, 0])
        return expit(odds + logit(self.right[labels]))


def blocks(count: int) -> Iterator[slice]:
    """0..count-1 in parts of BLOCK."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def fit(scores: Floats, labels: Labels, num_classes: int) -> Mixture:
    """The mixtures of these samples; a class without any has that of all.

    scores: (N,) finite, N >= 1; labels: (N,) of 0..num_classes-1.
    """
    spread = max(_spread(scores), 1e-6)
    whole = _whole(scores, spread)
    prior = Mixture(*(np.repeat(each, num_classes, axis=0) for each in _parts(whole)))
    found = prior
    for _ in range(ITERATIONS):
        found = _step(found, prior, scores, spread, labels, num_classes, PRIOR_SAMPLES)
    return found


def _parts(mixture: Mixture) -> tuple[Floats, Floats, Floats]:
    return mixture.means, mixture.spreads, mixture.right


def _whole(scores: Floats, spread: float) -> Mixture:
    """One mixture of all scores, begun at their lower and upper quarter. spread: theirs."""
    low, high = np.quantile(scores, [0.25, 0.75])
    found = Mixture(
        np.array([[low, max(high, low + 1e-3 * spread)]]),
        np.full((1, 2), spread / 2),
        np.array([0.5]),
    )
    nobody = np.zeros(len(scores), np.int64)
    for _ in range(ITERATIONS):
        found = _step(found, found, scores, spread, nobody, 1, 0.0)
    return found


def _step(
    mixture: Mixture,
    prior: Mixture,
    scores: Floats,
    spread: float,
    labels: Labels,
    num_classes: int,
    prior_samples: float,
) -> Mixture:
    """One step of expectation and maximisation, with the prior as samples beside."""
    counts = np.zeros((num_classes, 2))
    sums = np.zeros((num_classes, 2))
    squares = np.zeros((num_classes, 2))
    for part in blocks(len(scores)):
        values, own = scores[part], labels[part]
        right = mixture.probability(values, own)
        for component, share in enumerate((1 - right, right)):
            counts[:, component] += np.bincount(own, share, num_classes)
            sums[:, component] += np.bincount(own, share * values, num_classes)
            squares[:, component] += np.bincount(own, share * values**2, num_classes)
    shares = np.stack([1 - prior.right, prior.right], 1)
    beside = prior_samples * shares + 1e-9
    counts = counts + beside
    means = (sums + beside * prior.means) / counts
    squares = squares + beside * (prior.spreads**2 + prior.means**2)
    spreads = np.sqrt(np.maximum(squares / counts - means**2, 0))
    spreads = np.maximum(spreads, LEAST_SPREAD * spread)
    means[:, 1] = np.maximum(means[:, 1], means[:, 0])  # the right ones are the upper ones
    return Mixture(means, spreads, np.clip(counts[:, 1] / counts.sum(1), LEAST, MOST))


def _spread(scores: Floats) -> float:
    """Standard deviation, without a temporary array of all scores."""
    mean = float(scores.mean())
    squares = sum(float(((scores[part] - mean) ** 2).sum()) for part in blocks(len(scores)))
    return float(np.sqrt(squares / len(scores)))


def _density(values: Floats, mean: Floats, spread: Floats) -> Floats:
    """Logarithm, without the constant that both components share."""
    logarithm: Floats = -(((values - mean) / spread) ** 2) / 2 - np.log(spread)
    return logarithm


def _on_the_rising_side(scores: Floats, mean: Floats, spread: Floats) -> Floats:
    """Scores no further out than where the odds turn: the wider component wins at both ends.

    Nor further than FAR: there differences of squares would be lost in rounding.
    """
    far = FAR * spread.max(1)
    scores = np.clip(scores, mean[:, 0] - far, mean[:, 1] + far)
    bend = 1 / spread[:, 0] ** 2 - 1 / spread[:, 1] ** 2  # odds: bend/2 s^2 + slope s + ...
    slope = mean[:, 1] / spread[:, 1] ** 2 - mean[:, 0] / spread[:, 0] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = -slope / bend
    held = np.where(bend > 0, np.maximum(scores, turn), scores)
    held = np.where(bend < 0, np.minimum(scores, turn), held)
    return np.where(np.isfinite(turn), held, scores)


def combine(first: Floats, second: Floats, prior: Floats) -> Floats:
    """(N,) one probability of two independent ones, each of which began from the prior."""
    found = np.empty(len(first))
    for part in blocks(len(first)):
        odds = logit(first[part]) + logit(second[part]) - logit(prior[part])
        found[part] = expit(odds)
    return found


def logit(probability: Floats) -> Floats:
    """Logarithm of the odds."""
    held = np.clip(probability, LEAST, MOST)
    odds: Floats = np.log(held / (1 - held))
    return odds


def expit(odds: Floats) -> Floats:
    """The probability of the logarithm of odds, between LEAST and MOST."""
    return np.clip(1 / (1 + np.exp(-np.clip(odds, -50, 50))), LEAST, MOST)
