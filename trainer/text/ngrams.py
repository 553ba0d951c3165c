"""The small encoder that is built in: counts of character n-grams, hashed. It has learnt nothing.

It knows spelling alone, so it serves a demo, a test, or a machine without a model. Source of the
features: Bojanowski et al. 2017 (subwords in < >, 3 to 5 letters), hashed without a table.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DIM = 1024
SHORTEST, LONGEST = 3, 5
_WORD = re.compile(r"[^\W_]+")


class Ngrams:
    """An encoder without weights."""

    name = "ngrams/1"
    dim = DIM

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), DIM) unit vectors; zeros for a text without a word."""
        vectors = np.zeros((len(texts), DIM), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            words = set(_WORD.findall(text.lower()))
            for word in sorted(words):
                places, signs = _features(word)
                np.add.at(vector, places, signs)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = vectors / np.maximum(lengths, 1e-12)
        return unit


@lru_cache(1 << 16)
def _features(word: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Places and signs of a word's features, which have together the length 1."""
    framed = f"<{word}>"
    grams = {
        framed[i : i + size]
        for size in range(SHORTEST, LONGEST + 1)
        for i in range(len(framed) - size + 1)
    } | {framed}
    hashes = np.array([zlib.crc32(gram.encode()) for gram in sorted(grams)], np.int64)
    signs = np.where(hashes & 1, 1.0, -1.0) / np.sqrt(len(hashes))
    return hashes // 2 % DIM, signs.astype(np.float32)
