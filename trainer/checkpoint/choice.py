"""Choosing among a run's checkpoints from outside of it: for a teacher, a fine-tuning, a soup."""

from __future__ import annotations

from typing import Literal

from trainer.checkpoint.errors import CheckpointError, CorruptCheckpoint
from trainer.checkpoint.format import Manifest
from trainer.checkpoint.lineage import valid
from trainer.checkpoint.restore import STEPS, committed, read_fences, read_manifest
from trainer.checkpoint.retention import read_scores
from trainer.storage import NotFound, Store

Which = Literal["best", "newest"]


def ranked(store: Store, which: Which) -> list[Manifest]:
    """The manifests of a run's checkpoints, the chosen first.

    best: by validation top-1, of equals the newer, those without a score last. newest: by update.
    Raises CheckpointError where there is none.
    """
    steps = committed(store.list(STEPS))
    line = valid(steps, read_fences(store, steps))
    if which == "best":
        scores = read_scores(store, line)
        line.sort(key=lambda step: (scores.get(step, -1.0), step), reverse=True)
    found = []
    for step in line:
        try:
            found.append(read_manifest(store, step))
        except (CorruptCheckpoint, NotFound):
            continue  # removed by retention meanwhile, or damaged: the next one counts
    if not found:
        raise CheckpointError(
            f"there is no complete checkpoint under {store.address}; give the address of a run"
            " that has kept one (its checkpoint.address)"
        )
    return found
