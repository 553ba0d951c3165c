"""What the demo promised and what came out: pure, from what the run has left."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.demo.audit import differences, is_rewound, parent_updates

TOP1_FLOOR = 0.9
"""Least validation top-1. Five seeds gave 0.924 to 0.954: docs/performance.md, section Demo."""
SEPARATION_FLOOR = 0.8
"""Least share of pairs of a right and a wrong label in which the right one is more probable."""
RECOVERY_MOST_S = 90.0
"""Most seconds from the kill to the next update, on a machine that is busy with other work too."""


@dataclass(frozen=True)
class Result:
    """What a run has left."""

    learnt: Mapping[int, Counter[int]]
    """By epoch, how often each sample id is in the updates which the weights contain."""
    num_samples: int
    """Samples of the packed training set."""
    epochs: int
    status: Mapping[str, Any]
    """The job as `launcher status -o json` gives it."""
    metrics: Sequence[Mapping[str, Any]]
    """The lines of metrics.jsonl."""
    killed_at: float
    """Unix seconds, as `at` in the metrics."""

    @property
    def top1(self) -> list[float]:
        """Validation top-1 at each evaluation that was not rewound, oldest first."""
        parents = parent_updates(self.metrics)
        return [
            float(line["top1"])
            for line in self.metrics
            if line["event"] == "evaluate"
            and not is_rewound(parents, line["generation"], line["update"])
        ]

    @property
    def recovery_s(self) -> float:
        """From the kill to the first update of a later group of workers; infinite if none came."""
        before = max(line["generation"] for line in self.metrics if line["at"] <= self.killed_at)
        # A group's first update is always told.
        after = (
            line["at"]
            for line in self.metrics
            if line["event"] == "train" and line["generation"] > before
        )
        return float(min(after, default=math.inf)) - self.killed_at

    @property
    def rewound(self) -> int:
        """Updates that were done again."""
        return sum(int(line["lost_updates"]) for line in self.metrics if line["event"] == "start")


@dataclass(frozen=True)
class Row:
    """One line of the table; `promised` is empty where the value is only told."""

    what: str
    value: str
    promised: str = ""
    kept: bool = True


def judge(result: Result) -> list[Row]:
    """The table's rows."""
    seen = sum(counts.total() for counts in result.learnt.values())
    expected = result.num_samples * result.epochs
    wrong = differences(result.learnt, range(result.num_samples), result.epochs)
    ids = "; ".join(wrong) if wrong else "each id once an epoch"
    last = (result.top1 or [0.0])[-1]
    state, restarts = result.status["state"], result.status["restarts"]
    return [
        Row("state", state, "Succeeded", state == "Succeeded"),
        Row("samples seen", f"{seen:,}, {ids}", f"{expected:,}", seen == expected and not wrong),
        Row("restarts", str(restarts), "1", restarts == 1),
        Row("validation top-1", f"{last:.3f}", f">= {TOP1_FLOOR}", last >= TOP1_FLOOR),
        Row(
            "kill to next update",
            f"{result.recovery_s:.1f} s",
            f"<= {RECOVERY_MOST_S:.0f} s",
            result.recovery_s <= RECOVERY_MOST_S,
        ),
        Row("updates done again", str(result.rewound)),
        Row("worker-seconds", f"{result.status['worker_s']:.0f}"),
    ]


def judge_gain(plain: Sequence[float], weighted: float, separation: float) -> list[Row]:
    """What judging labels by their texts has brought.

    separation: how often a right label is more probable than a wrong one; 0.5 would be chance.
    """
    before = (plain or [0.0])[-1]
    return [
        Row(
            "right above wrong, by texts",
            f"{separation:.3f} of pairs",
            f">= {SEPARATION_FLOOR}",
            separation >= SEPARATION_FLOOR,
        ),
        Row(
            "top-1, weighted by texts",
            f"{weighted:.3f}, {weighted - before:+.3f}",
            f"> {before:.3f}",
            weighted > before,
        ),
    ]


def judge_together(found: Mapping[str, Any]) -> Row:
    """What two networks bring together. found: what `launcher ensemble combine` says of them."""
    alone = [float(each["scores"]["top1"]) for each in found["singles"]]
    (both,) = (each for each in found["methods"] if each["method"] == "arithmetic")
    together, usual = float(both["scores"]["top1"]), sum(alone) / len(alone)
    return Row(
        "top-1, two networks together",
        f"{together:.3f}, {together - max(alone):+.3f} to the better one",
        "no less than their mean",
        together >= usual,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows in columns, with what was promised and whether it was kept."""
    widths = [max(len(row.what) for row in rows), max(len(row.value) for row in rows)]
    lines = []
    for row in rows:
        promise = f"promised {row.promised}: {'kept' if row.kept else 'BROKEN'}"
        line = (
            f"{row.what:<{widths[0]}}  {row.value:<{widths[1]}}  {promise if row.promised else ''}"
        )
        lines.append(line.rstrip())
    return "\n".join(lines)


def sparkline(values: Sequence[float]) -> str:
    """Values from 0 to 1 as a line of bars."""
    bars = "▁▂▃▄▅▆▇█"
    return "".join(bars[min(int(value * len(bars)), len(bars) - 1)] for value in values)
