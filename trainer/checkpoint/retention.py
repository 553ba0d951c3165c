"""Removing what is no longer needed: older checkpoints, stale ones, and halves of failed saves."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Collection

from trainer.checkpoint.lineage import Fence, Step, kept, valid
from trainer.checkpoint.restore import STEPS, committed, generations, read_fences
from trainer.storage import NotFound, Store

logger = logging.getLogger(__name__)


def prune(
    store: Store,
    fence: Fence,
    verified: Step,
    keep_last: int,
    keep_best: int,
    untouchable: Collection[str],
) -> int:
    """Removes what the rules do not keep, and gives the number of checkpoints that stay.

    fence: the caller's own. verified: a step known to be whole; it stays whatever the rules say.
    untouchable: attempts whose manifest may still appear. A manifest goes before its objects, so
    that whatever is visible is whole.

    Does nothing, and gives 0, once a newer generation is claimed: it may be reading what would go
    here, or have chosen it as its parent without having said so yet.
    """
    if max(generations(store), default=0) > fence.generation:
        return 0
    folders: dict[Step, list[str]] = defaultdict(list)
    entries = store.list(STEPS)
    for entry in entries:
        step = Step.of(entry.key)
        if step is not None:
            folders[step].append(entry.key)
    steps = committed(entries)
    fences = {found.generation: found for found in read_fences(store, steps)}
    line = valid(steps, (fences | {fence.generation: fence}).values())
    scores = read_scores(store, [step for step in line if step.score_key in folders[step]])
    keep = kept(line, scores, keep_last, keep_best) | {verified}
    for step, keys in folders.items():
        attempts = {key.split("/")[1] for key in keys}
        undecided = step not in steps and not attempts.isdisjoint(untouchable)
        if step in keep or step.generation > fence.generation or undecided:
            continue
        for key in sorted(keys, key=lambda key: key != step.manifest_key):
            store.remove(key)
    return len(keep)


def read_scores(store: Store, steps: Collection[Step]) -> dict[Step, float]:
    """The validation top-1 of those steps whose score can be read."""
    scores = {}
    for step in steps:
        try:
            top1 = json.loads(store.get(step.score_key))["top1"]
            if not isinstance(top1, int | float) or not math.isfinite(top1):
                raise ValueError(f"top1 is {top1!r}")
        except NotFound:
            continue
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("skipping the score %s/%s: %s", store.address, step.score_key, error)
            continue
        scores[step] = float(top1)
    return scores
