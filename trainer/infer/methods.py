"""Ways to combine the members' answers: what each learns, and what it makes of the answers.

    single      the best member alone
    arithmetic  mean of the probabilities
    geometric   mean of their logarithms
    rank        mean of the ranks, equals by probability
    subset      arithmetic mean over the best subset of members
    greedy      arithmetic mean over members picked one after the other, some several times.
                Caruana et al., ICML 2004
    weights     weighted mean: coordinate ascent on the simplex, from equal weights
    per-class   weights of each member for each class, fitted to the likelihood of the right class

The first four learn little or nothing, the others the more the later. Letters: M members,
n pictures, C candidates of each, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.config import Objective
from trainer.infer.answers import LEAST, Floats
from trainer.infer.candidates import Candidates
from trainer.infer.scores import places, score

PICKS = 20
"""Members that greedy selection takes at most."""
STEPS = (0.4, 0.2, 0.1, 0.05)
"""By how much coordinate ascent moves a weight, one after the other."""
SUBSETS_MOST = 10
"""Members up to which all their subsets are tried; of more the best pairs, triples, ... would be
a search of their own, which greedy selection is."""
FIT_STEPS, FIT_RATE, FIT_PRIOR = 150, 0.1, 1e-3
FIT_PICTURES = 50_000
"""Pictures that weights by class are fitted on, at most."""

Weights = NDArray[np.float64]
"""(M,) of the members, or (M, K) of the members for each class; columns add up to 1."""
Fit = Callable[[Candidates, Objective], Weights]


@dataclass(frozen=True)
class Method:
    """A way to combine."""

    name: str
    kind: str
    """arithmetic, geometric or rank: of what the weighted mean is taken."""
    fit: Fit


def combined(kind: str, weights: Weights, p: Floats, ranks: Floats | None = None) -> Floats:
    """(n, C) scores, the higher the likelier. p, ranks: (M, n, C).

    weights: (M,), or (M, n, C) where they are of each class.
    """
    if weights.ndim == 3:
        found: Floats = (weights * p).sum(0).astype(np.float32)
        return found
    w = weights.astype(np.float32)
    if kind == "geometric":
        found = np.tensordot(w, np.log(np.maximum(p, LEAST)), 1)
    elif kind == "rank":
        assert ranks is not None
        found = np.tensordot(w, p, 1) * np.float32(1e-3) - np.tensordot(w, ranks, 1)
    else:
        found = np.tensordot(w, p, 1)
    return found


def applied(method: Method, weights: Weights, of: Candidates) -> Floats:
    """(n, C) scores of the candidates."""
    if weights.ndim == 2:
        weights = weights[:, of.classes]
    return combined(method.kind, weights, of.p, of.ranks)


def _score(weights: Weights, of: Candidates, objective: Objective) -> float:
    scores = combined("arithmetic", weights, of.p)
    return score(places(scores, of.classes, of.labels), of.labels, objective)


def _equal(of: Candidates, objective: Objective) -> Weights:
    return np.full(len(of.p), 1 / len(of.p))


def _single(of: Candidates, objective: Objective) -> Weights:
    every = np.eye(len(of.p))
    best = int(np.argmax([_score(weights, of, objective) for weights in every]))
    found: Weights = every[best]
    return found


def _subset(of: Candidates, objective: Objective) -> Weights:
    """Of equally good subsets the smallest."""
    every = np.eye(len(of.p))
    if len(every) > SUBSETS_MOST:
        return _greedy(of, objective, again=False)
    subsets = (
        every[list(some)].mean(0)
        for size in range(1, len(every) + 1)
        for some in combinations(range(len(every)), size)
    )
    return max(subsets, key=lambda weights: _score(weights, of, objective))


def _greedy(of: Candidates, objective: Objective, again: bool = True) -> Weights:
    """The best mean on the way. again: a member may be picked several times."""
    every = np.eye(len(of.p))
    picked = np.zeros(len(every))
    best, best_score = _single(of, objective), -1.0
    for _ in range(PICKS):
        choices = [picked + each for each in every if again or not (picked @ each)]
        if not choices:
            break
        scores = [_score(choice / choice.sum(), of, objective) for choice in choices]
        picked = choices[int(np.argmax(scores))]
        if max(scores) > best_score:
            best, best_score = picked / picked.sum(), max(scores)
    return best


def _ascent(of: Candidates, objective: Objective) -> Weights:
    weights = _equal(of, objective)
    best = _score(weights, of, objective)
    for step in STEPS:
        moved = True
        while moved:
            moved = False
            for member in np.eye(len(weights)):
                for share in (step, -step):
                    tried = np.maximum(weights + share * (member - weights), 0)
                    tried /= tried.sum()
                    found = _score(tried, of, objective)
                    if found > best:
                        weights, best, moved = tried, found, True
    return weights


def _per_class(of: Candidates, objective: Objective) -> Weights:
    """(M, K) softmax over the members of what is fitted; the prior holds it at equal weights."""
    rows = np.linspace(0, len(of) - 1, min(len(of), FIT_PICTURES)).astype(np.int64)
    of = of.subset(rows)
    own = torch.from_numpy(of.classes == of.labels[:, None])
    known = own.any(1)
    p, classes = torch.from_numpy(of.p)[:, known], torch.from_numpy(of.classes)[known]
    own = own[known]
    theta = torch.zeros(len(of.p), of.num_classes, requires_grad=True)
    optimizer = torch.optim.Adam([theta], FIT_RATE)
    for _ in range(FIT_STEPS):
        scores = (theta.softmax(0)[:, classes] * p).sum(0)
        right = (scores * own).sum(1) / scores.sum(1).clamp_min(1e-12)
        loss = -right.clamp_min(1e-12).log().mean() + FIT_PRIOR * theta.square().sum() / len(theta)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found: Any = theta.detach().softmax(0).double().numpy()
    return np.asarray(found)


METHODS = (
    Method("single", "arithmetic", _single),
    Method("arithmetic", "arithmetic", _equal),
    Method("geometric", "geometric", _equal),
    Method("rank", "rank", _equal),
    Method("subset", "arithmetic", _subset),
    Method("greedy", "arithmetic", _greedy),
    Method("weights", "arithmetic", _ascent),
    Method("per-class", "arithmetic", _per_class),
)
"""The simpler first."""
