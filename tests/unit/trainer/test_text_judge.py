"""What texts, pictures and networks say together: synthetic truth, and what says nothing."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.config import JudgeConfig
from trainer.text.graph import Gathered, of_neighbours
from trainer.text.judge import Evidence, by_source, judge, separation
from trainer.text.mixture import LEAST, MOST
from trainer.text.parts import FACTS

K, PER_CLASS, SIZE = 4, 700, 8
COUNT = K * PER_CLASS
LABELS = np.repeat(np.arange(K), PER_CLASS)
SHARE = 0.6


def truth() -> NDArray[np.bool_]:
    return np.random.default_rng(0).random(COUNT) < SHARE


def evidence(**more: object) -> Evidence:
    """Margins that part right from wrong in the most; two fifths of the texts tell nothing."""
    draw = np.random.default_rng(1)
    whole = {
        "labels": LABELS,
        "margins": draw.normal(np.where(truth(), 0.2, -0.1), 0.1),
        "tells": draw.random(COUNT) < 0.6,
        "texts": None,
        "pictures": None,
        "network": None,
    }
    return Evidence(**(whole | more))  # type: ignore[arg-type]


def gathered(vectors: NDArray[np.float64]) -> Gathered:
    made = Gathered(*vectors.shape)
    made.fill(slice(0, len(vectors)), vectors.astype(np.float16))
    return made


def pictures() -> Gathered:
    """Right ones lie around their class's centre, wrong ones anywhere."""
    draw = np.random.default_rng(2)
    centres = draw.normal(size=(K, SIZE))
    near = centres[LABELS] + draw.normal(size=(COUNT, SIZE)) * 0.8
    return gathered(np.where(truth()[:, None], near, draw.normal(size=(COUNT, SIZE)) * 1.5))


def network() -> NDArray[np.float32]:
    """The exact posterior of a score of its own."""
    draw = np.random.default_rng(3)
    score = draw.normal(np.where(truth(), 1, -1), 1.0)
    odds = SHARE / (1 - SHARE) * np.exp(2 * score)
    found: NDArray[np.float32] = (odds / (1 + odds)).astype(np.float32)
    return found


def test_by_texts_alone() -> None:
    given_ = evidence()
    found = judge(given_, K, JudgeConfig())
    assert found.probability is found.text
    assert found.right.tolist() == pytest.approx([SHARE] * K, abs=0.08)
    mute = found.text[~given_.tells]
    assert mute.tolist() == found.right[LABELS[~given_.tells]].tolist(), "the share of its class"
    assert separation(found.text[given_.tells], truth()[given_.tells]) > 0.9
    assert ((found.text >= LEAST) & (found.text <= MOST)).all()


def test_where_no_text_tells_every_label_is_as_probable(caplog: pytest.LogCaptureFixture) -> None:
    nobody = np.zeros(COUNT, np.bool_)
    found = judge(evidence(tells=nobody, network=network()), K, JudgeConfig())
    assert set(found.probability.tolist()) == {0.5}
    assert found.right.tolist() == [0.5] * K
    assert "no text tells anything" in caplog.text
    assert "too little" in caplog.text


@pytest.mark.parametrize("source", ["pictures", "network", "both"])
def test_pictures_and_networks_tell_more_than_texts_alone(source: str) -> None:
    more = {"pictures": pictures(), "network": network()}
    chosen = more if source == "both" else {source: more[source]}
    given_ = evidence(**chosen)
    found = judge(given_, K, JudgeConfig())
    assert separation(found.probability, truth()) > separation(found.text, truth()) + 0.03
    mute = ~given_.tells
    assert separation(found.probability[mute], truth()[mute]) > 0.7
    assert found.probability.mean() == pytest.approx(SHARE, abs=0.06)
    bins = np.minimum((5 * found.probability).astype(int), 4)
    for number in range(5):
        mine = bins == number
        if mine.sum() > 100:
            assert truth()[mine].mean() == pytest.approx(found.probability[mine].mean(), abs=0.12)


def test_what_the_network_has_not_seen_is_judged_by_its_text() -> None:
    seen = network()
    unseen = np.arange(COUNT) % 3 == 0
    found = judge(evidence(network=np.where(unseen, np.nan, seen)), K, JudgeConfig())
    assert np.isfinite(found.probability).all()
    plain = judge(evidence(), K, JudgeConfig())
    order = np.argsort(plain.text[unseen & (LABELS == 0)])
    assert (np.diff(found.probability[unseen & (LABELS == 0)][order]) >= -1e-9).all()
    nothing = judge(evidence(network=np.full(COUNT, np.nan, np.float32)), K, JudgeConfig())
    assert nothing.probability.tolist() == plain.probability.tolist()


def test_neighbours_of_texts_are_averaged_in_the_share_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    vectors = gathered(np.random.default_rng(4).normal(size=(COUNT, SIZE)))
    given_ = evidence(texts=vectors)
    own = judge(given_, K, JudgeConfig(neighbours=3, own_share=1.0))
    assert own.text.tolist() == judge(evidence(), K, JudgeConfig()).text.tolist()
    half = judge(given_, K, JudgeConfig(neighbours=3, own_share=0.25))
    near = of_neighbours(given_.margins, LABELS, given_.tells, vectors, 3)
    mixed = evidence(margins=0.25 * given_.margins + 0.75 * near)
    assert half.text.tolist() == judge(mixed, K, JudgeConfig()).text.tolist()


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.booleans()), max_size=12))
def test_separation_is_the_share_of_pairs_in_order(cases: list[tuple[float, bool]]) -> None:
    found = separation(np.array([s for s, _ in cases]), np.array([r for _, r in cases], np.bool_))
    right, wrong = [s for s, r in cases if r], [s for s, r in cases if not r]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in right for b in wrong]
    assert math.isnan(found) if not pairs else found == pytest.approx(sum(pairs) / len(pairs))


def test_each_source_is_told_of() -> None:
    facts = np.zeros(4, FACTS)
    facts["words"], facts["query_words"], facts["source"] = [3, 1, 0, 2], [1, 1, 0, 0], [1, 1, 1, 2]
    found = by_source(np.array([0.2, 0.4, 0.6, 0.9]), facts, ("other", "google", "flickr"))
    assert list(found) == ["google", "flickr"]
    assert found["google"]["num_samples"] == 3
    assert found["google"]["tells"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["google"]["mean"] == pytest.approx(0.4)
    assert found["google"]["quantiles"][2] == pytest.approx(0.4)
    assert found["flickr"]["tells"] == 1
