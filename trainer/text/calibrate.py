"""What pictures say of a label, made a probability by what texts say of it.

Texts are right or wrong on their own, whatever the picture looks like. So where a score of pictures
is high, the texts' mean probability tells how often labels are right there, once it is stretched:
texts are not certain, and their mean lies between what they say on right and on wrong labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Floats = NDArray[np.float64]

BINS = 50
LEAST_INFORMATION = 0.05
"""Least difference of the texts' mean probability between right and wrong labels."""


def calibrated(scores: Floats, texts: Floats, tells: NDArray[np.bool_]) -> Floats | None:
    """(N,) probability that the label is right by a score that rises with it.

    texts: (N,) probability by the texts, which counts where `tells`. None where texts tell too
    little to calibrate anything by. The mean of calibrated probabilities p over right labels is
    E[p^2]/E[p], over wrong ones E[p(1-p)]/E[1-p]; between both the mean in each bin is put in
    proportion, and kept from falling (isotonic regression).
    """
    known = texts[tells]
    if len(known) < 2 * BINS:
        return None
    on_right = float((known**2).sum() / known.sum())
    on_wrong = float((known * (1 - known)).sum() / (1 - known).sum())
    if on_right - on_wrong < LEAST_INFORMATION:
        return None
    edges = np.unique(np.quantile(scores[tells], np.linspace(0, 1, BINS + 1)))
    if len(edges) < 3:
        return None
    bins = np.clip(np.searchsorted(edges, scores[tells], side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(bins, minlength=len(edges) - 1)
    filled = counts > 0
    counts = counts[filled]
    centres = np.bincount(bins, scores[tells], len(edges) - 1)[filled] / counts
    means = np.bincount(bins, known, len(edges) - 1)[filled] / counts
    rising = isotonic_regression(means, weights=counts).x
    mean = np.interp(scores, centres, rising)
    found: Floats = np.clip((mean - on_wrong) / (on_right - on_wrong), 0.0, 1.0)
    return found
