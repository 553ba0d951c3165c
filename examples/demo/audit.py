"""Which samples the final weights have learnt from, reconstructed from what the ranks recorded.

With log.audit_dir set, each rank of each generation writes `g<generation>-r<rank>.jsonl`, a line an
update: {"update", "epoch", "seen", "ids"}. After a loss the next generation goes on from a
checkpoint, so updates beyond it were rewound: they are in the files, but not in the weights.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Lines = list[dict[str, Any]]


def read_lines(path: Path) -> Lines:
    """The JSON objects of a .jsonl file; a last line cut off by a kill is left out."""
    *whole, last = path.read_text(encoding="utf-8").split("\n")
    lines: Lines = [json.loads(line) for line in whole]
    return lines + ([json.loads(last)] if _is_whole(last) else [])


def final_ids(metrics: Iterable[Mapping[str, Any]], audit_dir: Path) -> dict[int, Counter[int]]:
    """How often each sample id was learnt from in each epoch, in the updates the weights contain.

    metrics: the run's metrics.jsonl; only its start events are looked at, which tell from which
    update each generation went on (parent_update).
    """
    learnt: dict[int, Counter[int]] = {}
    for lines in last_words(parent_updates(metrics), _recorded(audit_dir)).values():
        for line in lines:
            learnt.setdefault(int(line["epoch"]), Counter()).update(line["ids"])
    return learnt


def parent_updates(metrics: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """By generation, the update it went on from."""
    return {
        int(line["generation"]): int(line["parent_update"])
        for line in metrics
        if line["event"] == "start"
    }


def is_rewound(parents: Mapping[int, int], generation: int, update: int) -> bool:
    """Whether a later generation went on from before this update of that generation."""
    return any(later > generation and update > parents[later] for later in parents)


def last_words(
    parents: Mapping[int, int], recorded: Iterable[tuple[int, dict[str, Any]]]
) -> dict[int, Lines]:
    """For each update, the lines of the generation whose work on it was kept.

    parents: as parent_updates gives it. recorded: (generation, line) of every rank.
    A line counts if no later generation went on from before its update; of several generations that
    reached an update so, the newest did it last.
    """
    newest: dict[int, int] = {}
    lines: dict[int, Lines] = {}
    for generation, line in recorded:
        update = int(line["update"])
        if is_rewound(parents, generation, update) or generation < newest.get(update, 0):
            continue
        if generation > newest.get(update, -1):
            newest[update], lines[update] = generation, []
        lines[update].append(line)
    return lines


def differences(learnt: Mapping[int, Counter[int]], ids: range, epochs: int) -> list[str]:
    """What keeps `learnt` from holding each id exactly once in each epoch; [] if nothing does."""
    found = [f"epoch {epoch} was never asked for" for epoch in sorted(learnt) if epoch >= epochs]
    for epoch in range(epochs):
        counts = learnt.get(epoch, Counter())
        missing = len(ids) - sum(1 for sample in counts if sample in ids)
        foreign = sum(1 for sample in counts if sample not in ids)
        repeated = sum(1 for count in counts.values() if count > 1)
        for number, what in ((missing, "missing"), (foreign, "unknown"), (repeated, "repeated")):
            if number:
                found.append(f"epoch {epoch}: {number} ids {what}")
    return found


def _recorded(audit_dir: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for path in sorted(audit_dir.glob("g*-r*.jsonl")):
        name = re.fullmatch(r"g(\d+)-r(\d+)\.jsonl", path.name)
        if name:
            for line in read_lines(path):
                yield int(name[1]), line


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True
