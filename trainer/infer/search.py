"""The search for a combination: what every way is worth on pictures that it was not fitted on.

Letters: n pictures, M members, K classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import OBJECTIVES, Objective
from trainer.infer.candidates import Candidates
from trainer.infer.methods import METHODS, Method, Weights, applied
from trainer.infer.scores import Interval, hits, interval, places, score

PLAIN = "arithmetic"
"""What is taken unless another way is surely better."""


@dataclass(frozen=True)
class Found:
    """A way to combine, tried."""

    method: Method
    weights: Weights
    """Fitted on all pictures."""
    scores: dict[Objective, float]
    """Cross-validated."""
    score: Interval
    """By the objective, cross-validated."""
    gain: Interval
    """To the arithmetic mean, on the same pictures."""


def folds_of(labels: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """(n,) a fold of each picture; each class is spread evenly over them."""
    draw = np.random.default_rng(seed)
    shuffled = draw.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    found = np.empty(len(labels), np.int64)
    found[by_class] = np.arange(len(labels)) % folds
    return found


def search(of: Candidates, fold: NDArray[np.int64], objective: Objective) -> list[Found]:
    """Every way. fold: (n,) of each picture: what a fold is scored with, the others fitted."""
    held_out = [_held_out(method, of, fold, objective) for method in METHODS]
    plain = hits(held_out[[method.name for method in METHODS].index(PLAIN)], objective)
    found = []
    for method, place in zip(METHODS, held_out, strict=True):
        right = hits(place, objective)
        scores = {each: score(place, of.labels, each) for each in OBJECTIVES}
        gain = interval(right.astype(np.int64) - plain, of.labels, objective)
        weights = method.fit(of, objective)
        found.append(Found(method, weights, scores, interval(right, of.labels, objective), gain))
    return found


def _held_out(
    method: Method, of: Candidates, fold: NDArray[np.int64], objective: Objective
) -> NDArray[np.int64]:
    """(n,) place of the right class, by weights that did not see the picture."""
    found = np.empty(len(of), np.int64)
    for held in np.unique(fold):
        weights = method.fit(of.subset(fold != held), objective)
        part = of.subset(fold == held)
        found[fold == held] = places(applied(method, weights, part), part.classes, part.labels)
    return found


def contributions(of: Candidates, objective: Objective) -> list[Interval]:
    """What each member adds to the arithmetic mean of the others, of two members or more."""
    members = np.arange(len(of.p))
    whole = hits(_mean_places(of, members), objective).astype(np.int64)
    return [
        interval(
            whole - hits(_mean_places(of, members[members != each]), objective),
            of.labels,
            objective,
        )
        for each in members
    ]


def _mean_places(of: Candidates, members: NDArray[np.int64]) -> NDArray[np.int64]:
    return places(of.p[members].mean(0), of.classes, of.labels)


def advised(found: list[Found]) -> Found:
    """The best of those whose gain to the arithmetic mean is surely above 0; else that mean."""
    sure = [each for each in found if each.gain.low > 0]
    plain = next(each for each in found if each.method.name == PLAIN)
    return max(sure, key=lambda each: each.score.value, default=plain)


def described(found: Found) -> dict[str, Any]:
    """As JSON has it; weights by class are left to whoever applies them."""
    weights = found.weights.round(4).tolist() if found.weights.ndim == 1 else None
    return {
        "method": found.method.name,
        "weights": weights,
        "scores": {name.replace("-", "_"): round(value, 5) for name, value in found.scores.items()},
        "score": rounded(found.score),
        "gain": rounded(found.gain),
    }


def rounded(found: Interval) -> dict[str, float]:
    """As JSON has it."""
    return {key: round(value, 5) for key, value in asdict(found).items()}
