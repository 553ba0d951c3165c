"""What a run's audit and metrics tell: whether each sample counted once, and what was redone."""

from __future__ import annotations

from collections import Counter

from examples.demo.audit import final_ids
from tests.e2e.runs import Run

SAMPLES = 1152
"""Of the demo's training pictures, chosen by a selection file; six lanes of twelve times 16."""


def exactly_once(run: Run, epochs: int) -> None:
    """Every chosen id, and no other, once in each epoch of what the final weights contain."""
    learnt = final_ids(run.metrics(), run.audit)
    expected = Counter(range(0, 3 * SAMPLES, 3))
    assert sorted(learnt) == list(range(epochs))
    for epoch, counts in learnt.items():
        assert counts == expected, f"epoch {epoch}: {counts - expected} {expected - counts}"


def lost(run: Run) -> dict[int, int]:
    """By generation, how many updates of the one before had to be done again."""
    starts = [line for line in run.metrics() if line["event"] == "start"]
    return {
        line["generation"]: run.updates(line["generation"] - 1) - line["parent_update"]
        for line in starts
        if line["generation"] > 1
    }
