"""How near a text is to its class and to all else, against the long way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.text.classes import Meaning, Meanings
from trainer.text.measure import MEASURES, Space, margins, measure, space_of
from trainer.text.ngrams import Ngrams

MEANINGS = Meanings(
    (
        Meaning("tench", ("tench: a fish", "Tinca tinca"), ("an island",), frozenset({"n2"})),
        Meaning("chair", ("chair: a seat",), (), frozenset()),
        Meaning("crane", ("crane: a machine", "hoist"), ("a bird", "a poet"), frozenset({"n1"})),
    ),
    ("hammer: a tool", "carp: a fish", "lake: water"),
    ("n1", "n2", "n3"),
)
TEXTS = [
    "a tench",
    "Tinca tinca fish",
    "chairs",
    "crane",
    "",
    "a bird, the crane",
    "carp in a lake",
]


def cosine(a: str, b: str) -> float:
    first, second = Ngrams().encode([a, b]).astype(np.float64)
    return float(first @ second)


def centre(sentences: tuple[str, ...]) -> np.ndarray:
    mean = Ngrams().encode(sentences).astype(np.float64).mean(0)
    found: np.ndarray = mean / np.linalg.norm(mean)
    return found


@pytest.fixture(scope="module")
def space() -> Space:
    return space_of(MEANINGS, Ngrams())


@pytest.mark.parametrize("label", [0, 1, 2])
def test_each_measure_is_the_long_way(space: Space, label: int) -> None:
    vectors = Ngrams().encode(TEXTS)
    found = measure(vectors, np.full(len(TEXTS), label), space)
    mine = MEANINGS.classes[label]
    for text, vector, row in zip(TEXTS, vectors, found, strict=True):
        near = [float(vector @ centre(each.own)) for each in MEANINGS.classes]
        others = {k: value for k, value in enumerate(near) if k != label}
        assert row["own"] == pytest.approx(max(cosine(text, s) for s in mine.own), abs=1e-5)
        assert row["other"] == pytest.approx(max(others.values()), abs=1e-5)
        assert near[row["other_class"]] == pytest.approx(max(others.values()), abs=1e-5)
        assert row["other_class"] != label
        assert row["rank"] == 1 + sum(value > near[label] + 1e-6 for value in others.values())
        senses = [cosine(text, s) for s in mine.others]
        assert row["sense"] == pytest.approx(max(senses, default=-1), abs=1e-5)
        things = [
            cosine(text, thing)
            for thing, id_ in zip(MEANINGS.background, MEANINGS.background_ids, strict=True)
            if id_ not in mine.kin
        ]
        assert row["background"] == pytest.approx(max(things), abs=1e-5)
        margin = row["own"] - max(row["other"], row["sense"], row["background"])
        assert margins(found[found == row])[0] == pytest.approx(margin, abs=1e-6)


def test_samples_of_many_classes_do_not_touch_each_other(space: Space) -> None:
    vectors = np.repeat(Ngrams().encode(TEXTS), 3, axis=0)
    labels = np.tile(np.arange(3), len(TEXTS))
    together = measure(vectors, labels, space)
    assert together.dtype == MEASURES
    for label in range(3):
        mine = labels == label
        alone = measure(vectors[mine], labels[mine], space)
        for name in MEASURES.names or ():
            assert together[name][mine] == pytest.approx(alone[name], abs=1e-6), name


def test_a_space_keeps_what_belongs_to_each_class(space: Space) -> None:
    assert [len(part) for part in space.own] == [2, 1, 2]
    assert [len(part) for part in space.others] == [1, 0, 2]
    assert [part.tolist() for part in space.excluded] == [[1], [], [0]]
    assert space.background.shape == (3, Ngrams.dim)
    assert np.linalg.norm(space.centres, axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_without_background_and_other_meanings_there_is_nothing_to_compare_with() -> None:
    plain = Meanings((Meaning("tench", ("tench",)), Meaning("chair", ("chair",))))
    found = measure(Ngrams().encode(["tench"]), np.array([0]), space_of(plain, Ngrams()))
    assert (found["sense"].tolist(), found["background"].tolist()) == ([-1.0], [-1.0])
    assert found["own"].tolist() == pytest.approx([1.0], abs=1e-6)
    assert margins(found).tolist() == pytest.approx([1 - float(found["other"][0])], abs=1e-6)


def test_a_single_class_has_no_other() -> None:
    alone = space_of(Meanings((Meaning("tench", ("tench",)),)), Ngrams())
    [row] = measure(Ngrams().encode(["tench"]), np.array([0]), alone)
    assert (row["other"], row["other_class"], row["rank"]) == (-1.0, -1, 1)


@settings(max_examples=30)
@given(st.lists(st.sampled_from(TEXTS), max_size=6), st.integers(0, 2))
def test_cosines_and_margins_stay_in_their_range(
    space: Space, texts: list[str], label: int
) -> None:
    found = measure(Ngrams().encode(texts), np.full(len(texts), label, np.int64), space)
    for name in ("own", "other", "sense", "background"):
        assert (np.abs(found[name]) <= 1 + 1e-5).all()
    assert (np.abs(margins(found)) <= 2 + 1e-5).all()
    assert ((found["rank"] >= 1) & (found["rank"] <= 3)).all()
