"""From probabilities to what training takes: a selection of ids, and weights by id. Pure.

Letters: N samples, K classes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trainer.config import SelectConfig
from trainer.text.mixture import blocks

Floats = NDArray[np.float64]


def select(
    probability: Floats, labels: NDArray[np.int64], num_classes: int, config: SelectConfig
) -> NDArray[np.int64]:
    """The ids that are kept, ascending; of equal probabilities the lower id."""
    order = np.argsort(labels, kind="stable")
    kept = np.zeros(len(labels), np.bool_)
    stop = 0
    for count in np.bincount(labels, minlength=num_classes).tolist():
        start, stop = stop, stop + count
        own = order[start:stop]
        best = own[np.argsort(-probability[own], kind="stable")]
        kept[best[: _number(probability[best], config)]] = True
    return np.flatnonzero(kept)


def _number(descending: Floats, config: SelectConfig) -> int:
    """How many of a class are kept. descending: its probabilities."""
    if config.by == "threshold":
        wanted = int((descending >= config.threshold).sum())
    elif config.by == "share":
        wanted = math.ceil(round(config.share * len(descending), 9))  # 0.07 of 100 are 7
    else:
        wanted = config.count
    return max(wanted, config.least_per_class)


def loss_weights(probability: Floats, config: SelectConfig) -> NDArray[np.float32]:
    """(N,) probabilities, not below the floor, of mean 1: so the learning rate keeps its scale."""
    mean = np.maximum(probability, config.weight_floor).mean()
    scaled = np.empty(len(probability), np.float32)
    for part in blocks(len(scaled)):
        scaled[part] = np.maximum(probability[part], config.weight_floor) / mean
    return scaled


def sampling_weights(
    probability: Floats, labels: NDArray[np.int64], config: SelectConfig
) -> NDArray[np.float32]:
    """(N,) probabilities, not below the floor, scaled so that each class keeps its share.

    Else the classes with the clearest texts would crowd out the others.
    """
    sums = np.bincount(labels, np.maximum(probability, config.weight_floor))
    factors = np.bincount(labels) / np.maximum(sums, 1e-12)
    scaled = np.empty(len(probability), np.float32)
    for part in blocks(len(scaled)):
        held = np.maximum(probability[part], config.weight_floor)
        scaled[part] = held * factors[labels[part]]
    return scaled
