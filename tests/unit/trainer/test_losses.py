"""Losses against their formulas computed the long way, by finite differences, and at their limits.

Letters: B samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.learn.losses import one_hot
from trainer.learn.losses.balance import inverse_frequency, log_prior
from trainer.learn.losses.binary import binary_cross_entropy
from trainer.learn.losses.bootstrap import bootstrap
from trainer.learn.losses.cross_entropy import cross_entropy
from trainer.learn.losses.elr import elr
from trainer.learn.losses.focal import focal, sigmoid_focal
from trainer.learn.losses.gce import generalised_cross_entropy
from trainer.learn.losses.ghm import harmonised, histogram, sigmoid_norms, softmax_norms
from trainer.learn.losses.sce import reverse_cross_entropy
from trainer.learn.losses.self_label import confidence, corrected, prior_pull, sharpened

B, K = 6, 5


def draw() -> tuple[Tensor, Tensor]:
    """Logits, and targets of which some are one-hot, some smoothed, some mixed."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(B, K, generator=random, dtype=torch.float64)
    labels = torch.tensor([0, 1, 4, 2, 2, 3])
    targets = one_hot(labels, K).double()
    targets[2] = one_hot(labels, K, 0.1).double()[2]
    targets[3] = 0.7 * targets[3] + 0.3 * targets[0]
    return logits, targets


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(z) for z in row)
    return [math.exp(z) / total for z in row]


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def long_cross_entropy(z: list[float], t: list[float]) -> float:
    return -sum(tk * math.log(pk) for tk, pk in zip(t, softmax(z), strict=True))


def long_binary(z: list[float], t: list[float]) -> float:
    each = [
        tk * math.log(sigmoid(zk)) + (1 - tk) * math.log(1 - sigmoid(zk))
        for zk, tk in zip(z, t, strict=True)
    ]
    return -sum(each)


def long_focal(z: list[float], t: list[float]) -> float:
    return -sum(tk * (1 - pk) ** 1.5 * math.log(pk) for tk, pk in zip(t, softmax(z), strict=True))


def long_sigmoid_focal(z: list[float], t: list[float]) -> float:
    total = 0.0
    for zk, tk in zip(z, t, strict=True):
        p = sigmoid(zk)
        missing = (1 - p) * tk + p * (1 - tk)
        weight = (0.25 * tk + 0.75 * (1 - tk)) * missing**1.5
        total -= weight * (tk * math.log(p) + (1 - tk) * math.log(1 - p))
    return total


def long_gce(z: list[float], t: list[float]) -> float:
    return sum(tk * (1 - pk**0.7) / 0.7 for tk, pk in zip(t, softmax(z), strict=True))


def long_reverse(z: list[float], t: list[float]) -> float:
    logs = [max(math.log(tk), -4.0) if tk else -4.0 for tk in t]
    return -sum(pk * log for pk, log in zip(softmax(z), logs, strict=True))


def long_soft_bootstrap(z: list[float], t: list[float]) -> float:
    return -sum((0.8 * tk + 0.2 * pk) * math.log(pk) for tk, pk in zip(t, softmax(z), strict=True))


def long_hard_bootstrap(z: list[float], t: list[float]) -> float:
    p = softmax(z)
    best = p.index(max(p))
    return -sum(
        (0.8 * tk + 0.2 * (k == best)) * math.log(pk)
        for k, (tk, pk) in enumerate(zip(t, p, strict=True))
    )


def long_elr(z: list[float], t: list[float]) -> float:
    return math.log(1 - sum(0.9 * pk * tk for pk, tk in zip(softmax(z), t, strict=True)))


Formula = Callable[[Tensor, Tensor], Tensor]
FORMULAS: dict[str, tuple[Formula, Callable[[list[float], list[float]], float]]] = {
    "cross entropy": (cross_entropy, long_cross_entropy),
    "sigmoid": (binary_cross_entropy, long_binary),
    "focal": (lambda z, t: focal(z, t, 1.5), long_focal),
    "sigmoid focal": (lambda z, t: sigmoid_focal(z, t, 1.5, 0.25), long_sigmoid_focal),
    "gce": (lambda z, t: generalised_cross_entropy(z, t, 0.7), long_gce),
    "reverse": (lambda z, t: reverse_cross_entropy(z, t, -4.0), long_reverse),
    "soft bootstrap": (lambda z, t: bootstrap(z, t, 0.8, hard=False), long_soft_bootstrap),
    "hard bootstrap": (lambda z, t: bootstrap(z, t, 0.8, hard=True), long_hard_bootstrap),
    "elr": (lambda z, t: elr(z.softmax(1), 0.9 * t), long_elr),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_is_its_formula_the_long_way(name: str) -> None:
    formula, long = FORMULAS[name]
    logits, targets = draw()
    found = formula(logits, targets)
    expected = [long(z, t) for z, t in zip(logits.tolist(), targets.tolist(), strict=True)]
    assert found.shape == (B,)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    formula, _ = FORMULAS[name]
    logits, targets = draw()
    assert torch.autograd.gradcheck(lambda z: formula(z, targets), logits.requires_grad_())


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_of_bf16_logits_is_computed_in_float32_and_finite_at_extremes(name: str) -> None:
    formula, _ = FORMULAS[name]
    logits = torch.tensor([[300.0, -300.0, 0, 0, 0], [-300.0, 300.0, 0, 0, 0]]).bfloat16()
    logits.requires_grad_()
    found = formula(logits.float() if name == "elr" else logits, one_hot(torch.tensor([0, 0]), K))
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_limits() -> None:
    logits, targets = draw()
    plain = cross_entropy(logits, targets)
    one = one_hot(torch.tensor([0, 1, 4, 2, 2, 3]), K).double()
    at_label = (logits.softmax(1) * one).sum(1)
    limits = {
        "focal of gamma 0 is cross entropy": (focal(logits, targets, 0.0), plain),
        "sigmoid focal of gamma 0, alpha .5 is half of the sigmoid's": (
            2 * sigmoid_focal(logits, targets, 0.0, 0.5),
            binary_cross_entropy(logits, targets),
        ),
        "gce of small q is cross entropy": (
            generalised_cross_entropy(logits, targets, 1e-9),
            plain,
        ),
        "gce of q 1 is 1 - p": (generalised_cross_entropy(logits, one, 1.0), 1 - at_label),
        "reverse cross entropy is -A (1 - p)": (
            reverse_cross_entropy(logits, one, -4.0),
            4 * (1 - at_label),
        ),
        "bootstrap of beta 1 is cross entropy": (bootstrap(logits, targets, 1.0, hard=True), plain),
        "elr without memory is 0": (elr(logits.softmax(1), 0 * targets), 0 * plain),
        "self-label of full trust is cross entropy": (
            cross_entropy(logits, corrected(targets, logits.softmax(1), torch.ones(B).double())),
            plain,
        ),
    }
    for what, (found, expected) in limits.items():
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-12), what


def test_gradient_norms_and_their_histogram_the_long_way() -> None:
    logits, targets = draw()
    norms = softmax_norms(logits, targets)
    for row, (z, t) in enumerate(zip(logits.tolist(), targets.tolist(), strict=True)):
        gradient = [pk - tk for pk, tk in zip(softmax(z), t, strict=True)]
        assert norms[row].item() == pytest.approx(0.5 * sum(abs(g) for g in gradient))
        found = sigmoid_norms(logits, targets)[row].tolist()
        assert found == pytest.approx([abs(sigmoid(zk) - tk) for zk, tk in zip(z, t, strict=True)])
    hard = one_hot(torch.tensor([2] * B), K)
    assert softmax_norms(logits, hard).tolist() == pytest.approx(
        (1 - logits.softmax(1)[:, 2]).tolist()
    )
    counts = histogram(torch.tensor([0.0, 0.05, 0.1, 0.55, 1.0, math.nan]), torch.ones(6), 10)
    assert counts.tolist() == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    masked = histogram(torch.tensor([[0.0, 1.0], [0.0, 0.5]]), torch.tensor([1.0, 0.0]), 2)
    assert masked.tolist() == [1, 1]


def test_harmonised_weights_are_total_over_count_and_number_of_bins_in_use() -> None:
    norms = torch.tensor([0.05, 0.06, 0.07, 0.95])
    counts = histogram(norms, torch.ones(4), 10)
    weights = harmonised(norms, counts)
    assert weights.tolist() == pytest.approx([4 / (3 * 2)] * 3 + [4 / (1 * 2)])
    assert weights.mean().item() == pytest.approx(1)
    assert harmonised(norms, histogram(norms, torch.ones(4), 1)).tolist() == [1.0] * 4
    assert harmonised(norms, torch.zeros(10)).tolist() == [1.0] * 4
    # A bin that was empty before counts the sample itself, so nothing outweighs the batch.
    assert harmonised(torch.tensor([0.55]), counts).item() == pytest.approx(4 / 2)


def test_confidence_sharpening_and_the_pull_to_the_prior_the_long_way() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], dtype=torch.float64)
    web = one_hot(torch.tensor([1, 1]), 3)
    assert confidence(scores, web, 2.0).tolist() == pytest.approx([0.09, 0.64])
    assert confidence(scores, web, 1.0, relative=True).tolist() == pytest.approx([0.6, 1.0])
    assert sharpened(scores, 1.0, normalise=True) is scores
    assert sharpened(scores, 0.0, normalise=True).tolist() == [[1, 0, 0], [0, 1, 0]]
    squares = scores**2
    assert sharpened(scores, 0.5, normalise=False).tolist() == [
        pytest.approx(row) for row in squares.tolist()
    ]
    assert sharpened(scores, 0.5, normalise=True).tolist() == [
        pytest.approx(row) for row in (squares / squares.sum(1, keepdim=True)).tolist()
    ]
    assert corrected(web.double(), scores, torch.tensor([0.25, 1.0]).double()).tolist() == [
        pytest.approx([0.375, 0.475, 0.15]),
        pytest.approx([0, 1, 0]),
    ]
    prior, mean = torch.tensor([0.2, 0.3, 0.5]).double(), scores.mean(0)
    divergence = sum(
        p * math.log(p / m) for p, m in zip(prior.tolist(), mean.tolist(), strict=True)
    )
    assert prior_pull(scores, mean, prior).mean().item() == pytest.approx(divergence)
    logits = scores.log().requires_grad_()
    prior_pull(logits.softmax(1), mean, prior).mean().backward()
    again = scores.log().requires_grad_()
    (prior * (prior / again.softmax(1).mean(0)).log()).sum().backward()
    assert logits.grad is not None
    assert again.grad is not None
    assert torch.allclose(logits.grad, again.grad)


def test_weights_and_priors_of_a_long_tail() -> None:
    counts = torch.tensor([60, 30, 10, 0])
    weights = inverse_frequency(counts, 1.0)
    assert (weights * counts).tolist() == pytest.approx([100 / 3] * 3 + [0])
    assert inverse_frequency(counts, 0.0).tolist() == [1, 1, 1, 0]
    root = inverse_frequency(counts, 0.5)
    assert (root[2] / root[0]).item() == pytest.approx(math.sqrt(6))
    assert (root * counts).sum().item() == pytest.approx(100)
    assert log_prior(counts)[:3].exp().tolist() == pytest.approx(
        [60 / 100.5, 30 / 100.5, 10 / 100.5]
    )
    assert log_prior(counts).isfinite().all()


def test_targets_are_one_hot_or_smoothed() -> None:
    labels = torch.tensor([2, 0])
    assert one_hot(labels, 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    smoothed = one_hot(labels, 4, 0.1)
    assert smoothed[0].tolist() == pytest.approx([0.025, 0.025, 0.925, 0.025])
    assert smoothed.sum(1).tolist() == pytest.approx([1, 1])
    logits = torch.tensor([[2.0, -1.0, 0.5, 1.0]])
    theirs = torch.nn.functional.cross_entropy(logits, labels[:1], label_smoothing=0.1)
    assert cross_entropy(logits, smoothed[:1]).item() == pytest.approx(theirs.item())
