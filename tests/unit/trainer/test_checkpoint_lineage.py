"""The rules of generations and fences: examples of each order of events, then any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.checkpoint.lineage import Fence, Step, kept, valid

steps = st.builds(Step, st.integers(0, 20), st.integers(1, 6))
fences = st.builds(Fence, st.integers(1, 6), st.none() | steps)


def at(*places: tuple[int, int]) -> list[Step]:
    return [Step(update, generation) for update, generation in places]


@pytest.mark.parametrize("step", [Step(0, 1), Step(120, 7), Step(10**11, 12345)])
def test_keys_lead_back_to_the_step(step: Step) -> None:
    for key in (step.manifest_key, step.score_key, step.state_key("a")):
        assert Step.of(key) == step


@pytest.mark.parametrize(
    "key",
    [
        "",
        "metrics.jsonl",
        "fences/0001.json",
        "step-12-g0001/manifest.json",
        "step-0000000012/manifest.json",
        "step-00000000012-g0001/manifest.json",
        "step-0000000012-g0001",
        "x/step-0000000012-g0001/manifest.json",
    ],
)
def test_other_keys_are_no_steps(key: str) -> None:
    assert Step.of(key) is None


def test_the_order_of_names_is_the_order_of_steps() -> None:
    found = at((5, 1), (10, 1), (10, 2), (200, 1), (200, 12))
    assert sorted(found) == sorted(found, key=lambda step: step.folder)


LINES = {
    "nothing": ([], [], []),
    "one generation": (at((5, 1), (10, 1)), [Fence(1, None)], at((10, 1), (5, 1))),
    "resumed": (
        at((5, 1), (10, 1), (15, 2)),
        [Fence(1, None), Fence(2, Step(10, 1))],
        at((15, 2), (10, 1), (5, 1)),
    ),
    "stale commit after the fence": (
        at((5, 1), (10, 1)),
        [Fence(1, None), Fence(2, Step(5, 1))],
        at((5, 1)),
    ),
    "stale commit is newer than the new group's": (
        at((5, 1), (30, 1), (10, 2)),
        [Fence(1, None), Fence(2, Step(5, 1))],
        at((10, 2), (5, 1)),
    ),
    "stale commit before a fresh start's fence": (
        at((5, 1)),
        [Fence(1, None), Fence(2, None)],
        [],
    ),
    "a group that was passed by fences late": (
        at((10, 1), (20, 3), (8, 2)),
        [Fence(1, None), Fence(3, Step(10, 1)), Fence(2, Step(5, 1))],
        at((20, 3), (10, 1)),
    ),
    "a generation that kept nothing": (
        at((5, 1)),
        [Fence(1, None), Fence(2, Step(5, 1)), Fence(3, Step(5, 1))],
        at((5, 1)),
    ),
    "the parent itself was removed": (
        at((5, 1), (15, 2)),
        [Fence(1, None), Fence(2, Step(10, 1))],
        at((15, 2), (5, 1)),
    ),
    "a lost fence ends the line": (at((5, 1), (9, 2)), [Fence(1, None)], at((9, 2))),
    "a fence that points forward": (at((5, 1), (9, 2)), [Fence(1, Step(9, 2))], at((9, 2))),
    "a fence that points at itself": (at((5, 1)), [Fence(1, Step(5, 1))], at((5, 1))),
}


@pytest.mark.parametrize(("found", "drawn", "line"), LINES.values(), ids=LINES)
def test_lines(found: list[Step], drawn: list[Fence], line: list[Step]) -> None:
    assert valid(found, drawn) == line


@given(st.lists(steps), st.lists(fences, unique_by=lambda fence: fence.generation))
def test_the_line_is_ordered_and_never_crosses_itself(
    found: list[Step], drawn: list[Fence]
) -> None:
    line = valid(found, drawn)
    assert set(line) <= set(found)
    assert line == sorted(set(line), reverse=True)
    highest = max([fence.generation for fence in drawn] + [step.generation for step in found] + [0])
    assert {step for step in found if step.generation == highest} <= set(line)


@given(
    st.lists(steps),
    st.lists(fences, unique_by=lambda fence: fence.generation, min_size=1),
    st.lists(st.integers(1, 20)),
)
def test_what_older_generations_add_later_changes_nothing(
    found: list[Step], drawn: list[Fence], late: list[int]
) -> None:
    """Once generation 7 stands at its parent, no late commit of 1 to 6 moves the line."""
    begun = {fence.generation: fence.parent.update for fence in drawn if fence.parent}
    # A generation keeps nothing at or before the update that it goes on from.
    found = [step for step in found if step.update > begun.get(step.generation, -1)]
    chosen = max(valid(found, drawn), default=None)
    fence = Fence(7, chosen)
    before = valid(found, [*drawn, fence])
    cut = chosen.update if chosen else -1
    more = [Step(cut + ahead, g) for ahead in late for g in range(1, 7)]
    assert valid([*found, *more], [*drawn, fence]) == before


@given(st.lists(steps, unique=True), st.data(), st.integers(1, 4), st.integers(0, 3))
def test_retention_keeps_the_newest_and_the_best(
    line: list[Step], data: st.DataObject, keep_last: int, keep_best: int
) -> None:
    scores = data.draw(
        st.dictionaries(st.sampled_from(line), st.floats(0, 1)) if line else st.just({})
    )
    left = kept(line, scores, keep_last, keep_best)
    assert left <= set(line)
    assert set(sorted(line)[-keep_last:]) <= left
    assert len(left) <= keep_last + keep_best
    if keep_best and scores:
        assert max(scores.values()) in {scores.get(step) for step in left}
