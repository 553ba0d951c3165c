"""From probabilities to what training takes: a selection of ids, and weights by id. Pure.

Letters: N samples, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.config import SelectConfig

Floats = NDArray[np.float64]


def select(
    probability: Floats, labels: NDArray[np.int64], num_classes: int, config: SelectConfig
) -> NDArray[np.int64]:
    """The ids that are kept, ascending; of equal probabilities the lower id."""
    order = np.lexsort((np.arange(len(labels)), -probability, labels))
    counts = np.bincount(labels, minlength=num_classes)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    place = np.arange(len(labels)) - starts[labels[order]]  # within its class, the best first
    of_class = counts[labels[order]]
    if config.by == "threshold":
        kept = probability[order] >= config.threshold
    elif config.by == "share":
        kept = place < np.ceil(np.round(config.share * of_class, 9))  # 0.07 of 100 are 7
    else:
        kept = place < config.count
    kept |= place < config.least_per_class
    return np.sort(order[kept]).astype(np.int64)


def loss_weights(probability: Floats, config: SelectConfig) -> NDArray[np.float32]:
    """(N,) probabilities, not below the floor, of mean 1: so the learning rate keeps its scale."""
    held = np.maximum(probability, config.weight_floor)
    scaled: Floats = held / held.mean()
    return scaled.astype(np.float32)


def sampling_weights(
    probability: Floats, labels: NDArray[np.int64], config: SelectConfig
) -> NDArray[np.float32]:
    """(N,) probabilities, not below the floor, scaled so that each class keeps its share.

    Else the classes with the clearest texts would crowd out the others.
    """
    held = np.maximum(probability, config.weight_floor)
    counts = np.bincount(labels)
    sums = np.bincount(labels, held)
    scaled: Floats = held * counts[labels] / np.maximum(sums[labels], 1e-12)
    return scaled.astype(np.float32)
