"""Which checkpoints count: pure rules over generations, fences and scores. No store, no tensors.

Each group of workers that forms claims the next *generation*, looks for the newest checkpoint, then
writes a *fence*: "generation 7 goes on from step 120 of generation 5". The highest fence is the
truth of the run. It leads to a line of steps: those of generation 7, before them those of
generation 5 up to step 120, before them those of generation 5's own parent up to its cut, and so
on. A step off that line is stale: a group that was thought dead wrote it after the others had gone
on without it, whether before the fence was written or after. Nothing ever restores it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_FOLDER = re.compile(r"step-(\d{10,})-g(\d{4,})")


@dataclass(frozen=True, order=True)
class Step:
    """A checkpoint's place: the update whose result it keeps, and the generation that wrote it."""

    update: int
    generation: int

    @property
    def folder(self) -> str:
        return f"step-{self.update:010d}-g{self.generation:04d}"

    @property
    def manifest_key(self) -> str:
        return f"{self.folder}/manifest.json"

    @property
    def score_key(self) -> str:
        return f"{self.folder}/score.json"

    def state_key(self, attempt: str) -> str:
        return f"{self.folder}/{attempt}/state.safetensors"

    @classmethod
    def of(cls, key: str) -> Step | None:
        """The step whose folder holds the key; None where the key is in no such folder."""
        match = _FOLDER.fullmatch(key.partition("/")[0])
        if match is None:
            return None
        step = cls(int(match[1]), int(match[2]))
        return step if key.startswith(f"{step.folder}/") else None


@dataclass(frozen=True)
class Fence:
    """Where a generation began: after `parent`, or from nothing."""

    generation: int
    parent: Step | None


def valid(steps: Iterable[Step], fences: Iterable[Fence]) -> list[Step]:
    """The steps on the line of the highest generation, newest first.

    A generation that has steps but no fence (its fence was lost) counts with an unknown parent:
    the line ends at it.
    """
    steps = set(steps)
    parents = {fence.generation: fence.parent for fence in fences}
    generations = parents.keys() | {step.generation for step in steps}
    line: list[Step] = []
    generation = max(generations, default=0)
    cut: int | None = None
    while generation:
        line += [
            step
            for step in steps
            if step.generation == generation and (cut is None or step.update <= cut)
        ]
        parent = parents.get(generation)
        # A parent that is not older is no parent: damaged, and the walk must end.
        if parent is None or parent.generation >= generation:
            break
        generation, cut = parent.generation, parent.update
    return sorted(line, reverse=True)


def kept(
    line: Iterable[Step], scores: Mapping[Step, float], keep_last: int, keep_best: int
) -> set[Step]:
    """The steps that retention leaves: the newest, and the best by score (of equals the newer)."""
    newest_first = sorted(line, reverse=True)
    best = sorted(
        (step for step in newest_first if step in scores),
        key=lambda step: (scores[step], step),
        reverse=True,
    )
    return {*newest_first[:keep_last], *best[:keep_best]}
