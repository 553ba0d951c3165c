"""From what is known of each text, and of each picture, to the probability that its label is right.

Letters: N samples, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import JudgeConfig
from trainer.text import mixture
from trainer.text.calibrate import calibrated
from trainer.text.graph import Gathered, of_neighbours
from trainer.text.parts import tells

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What is known of the samples."""

    labels: NDArray[np.int64]
    """(N,)"""
    margins: Floats
    """(N,) of the texts, as trainer.text.measure has them."""
    tells: NDArray[np.bool_]
    """(N,) whether the text has a word beside the query's; else it says nothing."""
    texts: Gathered | None
    """Vectors of the texts, where neighbours are asked for."""
    pictures: Gathered | None
    """Features of the pictures, where a run gives them."""
    network: NDArray[np.float32] | None
    """(N,) a network's probabilities of the labels; not a number where it has none."""


@dataclass(frozen=True)
class Verdict:
    """What follows."""

    text: Floats
    """(N,) probability by the texts, those of alike pictures included."""
    probability: Floats
    """(N,) by everything."""
    right: Floats
    """(K,) estimated share of right labels, by the texts that tell."""


def judge(evidence: Evidence, num_classes: int, config: JudgeConfig) -> Verdict:
    """The verdict on every sample. A text that tells nothing leaves its class's share."""
    labels, tells, margins = evidence.labels, evidence.tells, evidence.margins
    if evidence.texts is not None:
        near = of_neighbours(margins, labels, tells, evidence.texts, config.neighbours)
        margins = config.own_share * margins + (1 - config.own_share) * near
    text, right = _by_texts(margins, labels, tells, num_classes)
    pictures = _by_pictures(evidence, text, right, config)
    if pictures is None:
        return Verdict(text, text, right)
    return Verdict(text, mixture.combine(text, pictures, right[labels]), right)


def _by_pictures(
    evidence: Evidence, text: Floats, right: Floats, config: JudgeConfig
) -> Floats | None:
    """(N,) probability by alike pictures, by a network, or by both; None where neither is given.

    Both come from networks, so they are no two witnesses: their sum is calibrated once more.
    """
    labels, scores = evidence.labels, []
    if evidence.pictures is not None:
        everyone = np.ones(len(labels), np.bool_)
        # The class's own share stays in: `combine` takes it out once.
        told = mixture.logit(text)
        scores.append(
            of_neighbours(told, labels, everyone, evidence.pictures, config.picture_neighbours)
        )
    if evidence.network is not None:
        seen = np.isfinite(evidence.network)
        odds = mixture.logit(np.where(seen, evidence.network, 0.5).astype(np.float64))
        scores.append(np.where(seen, odds, np.median(odds[seen]) if seen.any() else 0.0))
    if not scores:
        return None
    found = [calibrated(score, text, evidence.tells) for score in scores]
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        logger.warning("the texts tell too little to say what the pictures' scores mean")
    if len(known) < 2:
        return known[0] if known else None
    prior = mixture.logit(right[labels])
    total = mixture.logit(known[0]) + mixture.logit(known[1]) - prior
    return calibrated(total, text, evidence.tells)


def _by_texts(
    margins: Floats, labels: NDArray[np.int64], tells: NDArray[np.bool_], num_classes: int
) -> tuple[Floats, Floats]:
    if not tells.any():
        logger.warning("no text tells anything beside its query: every label is as probable")
        return np.full(len(labels), 0.5), np.full(num_classes, 0.5)
    fitted = mixture.fit(margins[tells], labels[tells], num_classes)
    found = fitted.right[labels]
    for part in mixture.blocks(len(labels)):
        told = np.flatnonzero(tells[part]) + part.start
        found[told] = fitted.probability(margins[told], labels[told])
    return found, fitted.right


def separation(scores: Floats, is_right: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a right label scores above a wrong one (0.5: chance).

    Not a number where all are right or all wrong. Source: Mann and Whitney 1947.
    """
    num_right, num_wrong = int(is_right.sum()), int((~is_right).sum())
    if not num_right or not num_wrong:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of equal scores the mean
    total = float(ranks[inverse][is_right].sum())
    return (total - num_right * (num_right + 1) / 2) / (num_right * num_wrong)


def by_source(probability: Floats, facts: NDArray[Any], sources: Sequence[str]) -> dict[str, Any]:
    """Of each source: samples, share of texts that tell, quantiles of the probabilities."""
    found: dict[str, Any] = {}
    telling = tells(facts)
    for number, name in enumerate(sources):
        mine = facts["source"] == number
        if not mine.any():
            continue
        found[name] = {
            "num_samples": int(mine.sum()),
            "tells": round(float(telling[mine].mean()), 4),
            "mean": round(float(probability[mine].mean()), 4),
            "quantiles": np.quantile(probability[mine], [0.05, 0.25, 0.5, 0.75, 0.95])
            .round(4)
            .tolist(),
        }
    return found
