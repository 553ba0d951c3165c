"""The audit's reconstruction, against a simulated run that is rewound at random."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.demo.audit import differences, final_ids, last_words, read_lines

NUM_SAMPLES, BATCH, EPOCHS = 23, 5, 2
STEPS_PER_EPOCH = 5


def step(update: int) -> tuple[int, list[int]]:
    """Epoch and ids of the update with this number, from 1."""
    epoch, index = divmod(update - 1, STEPS_PER_EPOCH)
    return epoch, list(range(index * BATCH, min((index + 1) * BATCH, NUM_SAMPLES)))


def simulate(crashes: list[tuple[int, int, int]]) -> tuple[dict[int, int], list[tuple[int, Any]]]:
    """Generations one after the other, each (world, updates done, updates lost), until the end."""
    parents, recorded, update = {}, [], 0
    generations = [*crashes, (1, STEPS_PER_EPOCH * EPOCHS, 0)]
    for generation, (world, done, lost) in enumerate(generations, start=1):
        parents[generation] = update
        last = min(update + done, STEPS_PER_EPOCH * EPOCHS)
        for number in range(update + 1, last + 1):
            epoch, ids = step(number)
            for rank in range(world):
                line = {"update": number, "epoch": epoch, "ids": ids[rank::world]}
                recorded.append((generation, line))
        update = max(last - lost, 0)
    return parents, recorded


runs = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6), st.integers(0, 8)), max_size=5)


@given(runs, st.randoms(use_true_random=False))
def test_rewound_updates_count_once_in_any_order_of_the_files(
    crashes: list[tuple[int, int, int]], random: Any
) -> None:
    parents, recorded = simulate(crashes)
    random.shuffle(recorded)
    learnt: dict[int, Counter[int]] = {}
    for lines in last_words(parents, recorded).values():
        for line in lines:
            learnt.setdefault(line["epoch"], Counter()).update(line["ids"])
    assert differences(learnt, range(NUM_SAMPLES), EPOCHS) == []


@given(runs, st.data())
def test_a_lost_or_repeated_share_of_a_rank_is_found(
    crashes: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    parents, recorded = simulate(crashes)
    last = [pair for pair in recorded if pair[0] == len(parents) and pair[1]["ids"]]
    if not last:
        return
    pair = data.draw(st.sampled_from(last))
    spoilt = [other for other in recorded if other is not pair]
    if data.draw(st.booleans()):
        spoilt = [*recorded, pair]
    learnt: dict[int, Counter[int]] = {}
    for lines in last_words(parents, spoilt).values():
        for line in lines:
            learnt.setdefault(line["epoch"], Counter()).update(line["ids"])
    assert differences(learnt, range(NUM_SAMPLES), EPOCHS) != []


def test_files_and_metrics_are_read_and_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    def record(name: str, *lines: dict[str, Any], torn: str = "") -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name).write_text(text + torn)

    record(
        "g0001-r0.jsonl",
        {"update": 1, "epoch": 0, "seen": 0, "ids": [0, 1]},
        {"update": 2, "epoch": 0, "seen": 4, "ids": [4]},
        torn='{"update": 3, "ep',
    )
    record("g0001-r1.jsonl", {"update": 1, "epoch": 0, "seen": 0, "ids": [2, 3]})
    record("g0002-r0.jsonl", {"update": 2, "epoch": 0, "seen": 4, "ids": [4, 5]})
    (tmp_path / "notes.txt").write_text("not an audit file")
    metrics = [
        {"event": "start", "generation": 1, "parent_update": -1},
        {"event": "train", "generation": 1, "update": 2},
        {"event": "start", "generation": 2, "parent_update": 1},
    ]
    assert final_ids(metrics, tmp_path) == {0: Counter({0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1})}
    assert len(read_lines(tmp_path / "g0001-r0.jsonl")) == 2


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "g0001-r0.jsonl").write_text('{"update": 1\n{"update": 2}\n')
    with pytest.raises(json.JSONDecodeError):
        read_lines(tmp_path / "g0001-r0.jsonl")


def test_differences_are_told_by_epoch() -> None:
    learnt = {0: Counter([0, 1, 1, 9]), 2: Counter([0])}
    assert differences(learnt, range(3), 2) == [
        "epoch 2 was never asked for",
        "epoch 0: 1 ids missing",
        "epoch 0: 1 ids unknown",
        "epoch 0: 1 ids repeated",
        "epoch 1: 3 ids missing",
    ]
