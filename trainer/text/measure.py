"""How near a text is to what its class means, and to what else it may mean. Cosines throughout.

Letters: n samples of a piece, K classes, d length of a vector, B things of the background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.text.classes import Meanings
from trainer.text.encoder import Encoder, encode_once

Floats = NDArray[np.float32]

MEASURES = np.dtype(
    [
        ("own", "<f4"),
        ("other", "<f4"),
        ("other_class", "<i4"),
        ("rank", "<i4"),
        ("sense", "<f4"),
        ("background", "<f4"),
    ]
)
"""Of a sample: the best cosine to a sentence of its class; to the nearest other class, and which;
the class's rank among all, from 1; to another meaning of the class's words; to something else.
-1 where there is nothing to compare with."""

NOTHING = -1.0
BLOCK = 2048
"""Samples measured at once: their cosines to 5,000 classes take 40 MB."""


@dataclass(frozen=True)
class Space:
    """All meanings as vectors."""

    own: tuple[Floats, ...]
    """For each class (sentences, d)."""
    centres: Floats
    """(K, d) unit means of these."""
    others: tuple[Floats, ...]
    """For each class (other meanings of its words, d)."""
    background: Floats
    """(B, d)"""
    excluded: tuple[NDArray[np.int64], ...]
    """For each class the places in the background that are of its kin."""


def space_of(meanings: Meanings, encoder: Encoder) -> Space:
    """Encodes all that classes and background are described by."""
    sentences = [
        *(text for each in meanings.classes for text in (*each.own, *each.others)),
        *meanings.background,
    ]
    vectors = encode_once(encoder, sentences)
    own, others, first = [], [], 0
    for each in meanings.classes:
        middle, last = first + len(each.own), first + len(each.own) + len(each.others)
        own.append(vectors[first:middle])
        others.append(vectors[middle:last])
        first = last
    centres = np.stack([part.mean(0) for part in own])
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    excluded = tuple(
        np.flatnonzero(meanings.excluded(label)) for label in range(len(meanings.classes))
    )
    return Space(tuple(own), centres, tuple(others), vectors[first:], excluded)


def measure(vectors: Floats, labels: NDArray[np.int64], space: Space) -> NDArray[Any]:
    """(n,) of MEASURES. vectors: (n, d) unit ones; labels: (n,)."""
    blocks = range(0, len(labels), BLOCK)
    measured = [_measure(vectors[i : i + BLOCK], labels[i : i + BLOCK], space) for i in blocks]
    return np.concatenate(measured) if measured else np.zeros(0, MEASURES)


def _measure(vectors: Floats, labels: NDArray[np.int64], space: Space) -> NDArray[Any]:
    found = np.zeros(len(labels), MEASURES)
    rows = np.arange(len(labels))
    to_centres = cosines(vectors, space.centres)
    mine = to_centres[rows, labels].copy()
    found["rank"] = 1 + (to_centres > mine[:, None]).sum(1)
    to_centres[rows, labels] = NOTHING
    nearest = to_centres.argmax(1)
    found["other"] = to_centres[rows, nearest]
    found["other_class"] = nearest if len(space.own) > 1 else -1
    to_background = cosines(vectors, space.background)
    for label in np.unique(labels).tolist():
        of_class = np.flatnonzero(labels == label)
        found["own"][of_class] = _best(cosines(vectors[of_class], space.own[label]))
        found["sense"][of_class] = _best(cosines(vectors[of_class], space.others[label]))
        to_background[np.ix_(of_class, space.excluded[label])] = NOTHING
    found["background"] = _best(to_background)
    return found


def cosines(vectors: Floats, others: Floats) -> Floats:
    """(n, m) products of (n, d) and (m, d), the same for any number of threads.

    A product with a single vector is another routine of BLAS, which adds up in as many parts as
    there are threads; so it is made one with two.
    """
    left, right = (np.repeat(each, 2, 0) if len(each) == 1 else each for each in (vectors, others))
    found: Floats = (left @ right.T)[: len(vectors), : len(others)]
    return found


def _best(found: Floats) -> Floats:
    """(n,) the largest of each row; NOTHING where a row is empty."""
    best: Floats = found.max(1, initial=NOTHING)
    return best


def margins(measures: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) by how much a text is nearer to its class than to anything else; -2 to 2."""
    rivals = np.maximum.reduce([measures[name] for name in ("other", "sense", "background")])
    found: NDArray[np.float64] = measures["own"].astype(np.float64) - rivals
    return found
