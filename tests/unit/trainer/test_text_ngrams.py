"""The built-in encoder: what it gives, and that it gives the same everywhere."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.config import EncoderConfig
from trainer.text.encoder import encode_once, open_encoder
from trainer.text.ngrams import DIM, Ngrams

UNHURRIED = settings(suppress_health_check=[HealthCheck.too_slow])


def one(text: str) -> np.ndarray:
    return Ngrams().encode([text])[0]


def test_a_word_is_its_parts_of_three_to_five_letters_hashed() -> None:
    """Pinned: pieces that were made before must stay true."""
    found = one("Tench")
    places = [55, 131, 273, 296, 410, 609, 777, 795, 808, 822, 895, 900, 1003]
    assert np.flatnonzero(found).tolist() == places
    signs = [1, 1, 1, 1, -1, 1, -1, -1, 1, 1, 1, 1, 1]
    assert (found[places] * np.sqrt(13)).tolist() == pytest.approx(signs, abs=1e-6)
    grams = [
        "<te",
        "ten",
        "enc",
        "nch",
        "ch>",
        "<ten",
        "tenc",
        "ench",
        "nch>",
        "<tenc",
        "tench",
        "ench>",
        "<tench>",
    ]
    assert sorted(zlib.crc32(gram.encode()) // 2 % DIM for gram in grams) == places


@UNHURRIED
@given(st.lists(st.text(max_size=20), max_size=5))
def test_vectors_have_length_1_or_are_zeros_without_a_word(texts: list[str]) -> None:
    vectors = Ngrams().encode(texts)
    assert vectors.shape == (len(texts), DIM)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    for text, length in zip(texts, lengths.tolist(), strict=True):
        words = any(char.isalnum() for char in text)
        assert length == pytest.approx(1 if words else 0, abs=1e-5)


def test_near_spellings_are_nearer_and_order_and_case_are_nothing() -> None:
    near, far = one("tench") @ one("tenches"), one("tench") @ one("carp")
    assert near > 0.5 > 0.2 > abs(far)
    assert one("a tench, a lake").tolist() == one("LAKE a Tench").tolist()
    assert one("a tench") @ one("tench in a lake") > one("carp") @ one("tench in a lake")


def test_texts_do_not_touch_each_other() -> None:
    texts = ["tench", "", "great white shark", "tench", "丁鱥"]
    together = Ngrams().encode(texts)
    assert (together == np.stack([one(text) for text in texts])).all()
    assert not together[1].any()
    assert Ngrams().encode([]).shape == (0, DIM)


def test_it_is_opened_by_its_name_and_equal_texts_are_encoded_once(tmp_path: Path) -> None:
    class Counting(Ngrams):
        seen = 0

        def encode(self, texts: list[str]) -> np.ndarray:
            self.seen += len(texts)
            return super().encode(texts)

    encoder = open_encoder(EncoderConfig(model="ngrams"), tmp_path, torch.device("cpu"))
    assert (encoder.name, encoder.dim) == ("ngrams/1", DIM)
    counting, texts = Counting(), ["carp", "tench", "carp", "", "carp"]
    assert (encode_once(counting, texts) == encoder.encode(texts)).all()
    assert counting.seen == 3
    assert encode_once(counting, []).shape == (0, DIM)
