"""What losses remember over steps: GHM's histogram, ELR's memory, self-label's mean prediction."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.unit.trainer.tiny import ONE_THREAD, TinyRun
from trainer.config import BalanceConfig, ElrConfig, GhmConfig, LossConfig, SelfLabelConfig
from trainer.learn.losses import Examples, Labels, Loss, build, cross_entropy, one_hot
from trainer.learn.losses.balance import Balanced
from trainer.learn.losses.elr import EarlyLearning
from trainer.learn.losses.ghm import Ghm, histogram, softmax_norms
from trainer.learn.losses.self_label import SelfLabel
from trainer.world import Ranks, join

K = 4
KEEP, SKIPPED = torch.tensor(1.0), torch.tensor(0.0)
ALONE = Ranks(1, 8)


def examples(labels: list[int], **more: Tensor) -> Examples:
    given = torch.tensor(labels)
    whole = {
        "labels": given,
        "targets": one_hot(given, K),
        "ids": torch.arange(len(labels)),
        "counted": torch.ones(len(labels)),
    }
    return Examples(**whole | more)  # type: ignore[arg-type]


def logits(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, K, generator=torch.Generator().manual_seed(seed))


def step(
    loss: Loss, given: Tensor, labels: list[int], keep: Tensor = KEEP, seen: int = 1
) -> Tensor:
    loss.begin(seen)
    found = loss(given, examples(labels))
    loss.settle(ALONE, keep)
    return found


def copies(loss: Loss) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in loss.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_ghm_warms_up_with_cross_entropy_and_counts_meanwhile() -> None:
    loss = Ghm(GhmConfig(bins=10, warmup_epochs=2), epoch_samples=10)
    given = logits(8)
    labels = [0, 1, 2, 3, 0, 1, 2, 3]
    plain = cross_entropy(given, one_hot(torch.tensor(labels), K))
    assert torch.equal(step(loss, given, labels, seen=0), plain)
    assert torch.equal(step(loss, given, labels, seen=19), plain)
    weighted = step(loss, given, labels, seen=20)
    counts = histogram(softmax_norms(given, one_hot(torch.tensor(labels), K)), torch.ones(8), 10)
    # The same step three times, so the average without its beginning is the step's own histogram.
    assert loss.density().tolist() == pytest.approx(counts.tolist())
    assert (weighted / plain).mean().item() == pytest.approx(1, rel=1e-5)
    assert not torch.allclose(weighted, plain)


def test_ghm_of_one_bin_is_the_mean_loss() -> None:
    loss = Ghm(GhmConfig(bins=1, momentum=0, warmup_epochs=0), epoch_samples=10)
    given, labels = logits(8), [0, 1, 2, 3, 0, 1, 2, 3]
    step(loss, given, labels, seen=0)
    plain = cross_entropy(given, one_hot(torch.tensor(labels), K))
    assert step(loss, given, labels).tolist() == pytest.approx(plain.tolist())


def test_an_empty_bin_fades_as_all_others_do() -> None:
    loss = Ghm(GhmConfig(bins=2, momentum=0.5), epoch_samples=1)
    sure, unsure = 9 * one_hot(torch.tensor([0, 0]), K), -9 * one_hot(torch.tensor([0, 0]), K)
    step(loss, unsure, [0, 0])
    assert loss.density().tolist() == [0, 2]
    step(loss, sure, [0, 0])
    assert loss.density().tolist() == pytest.approx([2 * 2 / 3, 2 / 3])


@pytest.mark.parametrize(
    "loss",
    [
        Ghm(GhmConfig(), 10),
        EarlyLearning(ElrConfig(), K, 8),
        SelfLabel(SelfLabelConfig(teacher="self", start_ratio=0), torch.ones(K), 10),
    ],
    ids=["ghm", "elr", "self_label"],
)
def test_a_skipped_step_leaves_no_trace(loss: Loss) -> None:
    step(loss, logits(8), [0, 1, 2, 3] * 2)
    before = copies(loss)
    assert before
    step(loss, torch.full((8, K), math.nan), [0, 1, 2, 3] * 2, SKIPPED)
    assert same(copies(loss), before)
    step(loss, logits(8, seed=1), [0, 1, 2, 3] * 2)
    assert not same(copies(loss), before)


def test_elr_averages_each_samples_predictions_the_long_way() -> None:
    loss = EarlyLearning(ElrConfig(strength=3.0, beta=0.7, kept_classes=K), K, num_samples=6)
    memory = torch.zeros(6, K)
    for number, ids in enumerate([[0, 1, 2], [3, 4, 5], [2, 0, 4], [5, 1, 3]]):
        given, labels = logits(3, number), [i % K for i in ids]
        loss.begin(1)
        found = loss(given, examples(labels, ids=torch.tensor(ids)))
        for row, sample in enumerate(ids):
            p = given[row].softmax(0).clamp(1e-4, 1 - 1e-4)
            memory[sample] = 0.7 * memory[sample] + 0.3 * p / p.sum()
            plain = -math.log(given[row].softmax(0)[labels[row]])
            expected = plain + 3 * math.log(1 - float((p * memory[sample]).sum()))
            assert found[row].item() == pytest.approx(expected, abs=2e-3)  # kept in float16
        loss.settle(ALONE, KEEP)
    kept = torch.zeros(7, K).scatter_add_(1, loss.classes.long(), loss.values.float())
    assert kept[:6].tolist() == [pytest.approx(row, abs=1e-3) for row in memory.tolist()]
    assert kept[6].tolist() == [0] * K


def test_elr_keeps_the_largest_classes_alone() -> None:
    loss = EarlyLearning(ElrConfig(kept_classes=2, beta=0.5), K, num_samples=1)
    loss.begin(1)
    loss(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), examples([0]))
    loss.settle(ALONE, KEEP)
    assert loss.classes[0].tolist() == [0, 2]
    with pytest.raises(ValueError, match="up to 32,767 classes, not 40000"):
        EarlyLearning(ElrConfig(), 40000, 1)


def test_padding_and_samples_that_do_not_count_are_not_remembered() -> None:
    loss = EarlyLearning(ElrConfig(), K, num_samples=2)
    loss.begin(1)
    counted = torch.tensor([0.0, 0.0])
    loss(logits(2), examples([0, 1], ids=torch.tensor([1, -1]), counted=counted))
    loss.settle(ALONE, KEEP)
    assert loss.values.abs().sum() == 0


def teaching(**told: object) -> SelfLabel:
    scc = {"q": 2.0, "temperature": 1.0, "floor": 0.0, "prior_strength": 0.0}
    whole = {"teacher": "ema", "start_ratio": 0.0, "start_agreement": 0.0, **scc}
    config = SelfLabelConfig(**whole | told)  # type: ignore[arg-type]
    return SelfLabel(config, torch.full((K,), 10), goal=100)


def taught(loss: SelfLabel, given: Tensor, teacher: Tensor, labels: list[int]) -> Tensor:
    loss.begin(80)
    found: Tensor = loss(given, examples(labels, teacher=teacher))
    loss.settle(ALONE, KEEP)
    return found


@pytest.mark.parametrize("base", ["softmax", "sigmoid"])
def test_self_label_is_scc_the_long_way(base: str) -> None:
    loss = teaching(base=base)
    given, teacher, labels = logits(3), logits(3, seed=7), [0, 1, 2]
    taught(loss, given, teacher, labels)  # the step from which it begins
    found = taught(loss, given, teacher, labels)
    for row, label in enumerate(labels):
        z = given[row].tolist()
        t = teacher[row].tolist()
        total = sum(math.exp(v) for v in t)
        scores = [math.exp(v) / total if base == "softmax" else 1 / (1 + math.exp(-v)) for v in t]
        trust = scores[label] ** 2
        target = [trust * (k == label) + (1 - trust) * s for k, s in enumerate(scores)]
        if base == "softmax":
            largest = math.log(sum(math.exp(v) for v in z))
            expected = -sum(tk * (zk - largest) for tk, zk in zip(target, z, strict=True))
        else:
            p = [1 / (1 + math.exp(-v)) for v in z]
            expected = -sum(
                tk * math.log(pk) + (1 - tk) * math.log(1 - pk)
                for tk, pk in zip(target, p, strict=True)
            )
        assert found[row].item() == pytest.approx(expected, rel=1e-5)


def test_self_label_of_full_trust_is_cross_entropy() -> None:
    loss = teaching(floor=1.0)
    given = logits(3)
    taught(loss, given, logits(3, seed=7), [0, 1, 2])
    plain = cross_entropy(given, one_hot(torch.tensor([0, 1, 2]), K))
    found = taught(loss, given, logits(3, seed=7), [0, 1, 2])
    assert found.tolist() == pytest.approx(plain.tolist())


def test_self_label_begins_late_and_only_where_teacher_and_labels_agree() -> None:
    loss = teaching(start_ratio=0.75, start_agreement=0.5)
    given, labels = logits(8), [0, 1, 2, 3] * 2
    plain = cross_entropy(given, one_hot(torch.tensor(labels), K))
    loss.begin(74)
    assert not loss.teacher
    assert torch.equal(loss(given, examples(labels)), plain)
    loss.settle(ALONE, KEEP)
    against, agreeing = torch.zeros(8, K), 5 * one_hot(torch.tensor(labels), K)
    for _ in range(2):
        assert torch.equal(taught(loss, given, against, labels), plain)
        assert loss.begun.item() == 0
    for _ in range(4):
        taught(loss, given, agreeing, labels)
    assert loss.begun.item() == 1
    for _ in range(4):
        assert not torch.allclose(taught(loss, given, against, labels), plain)
    assert loss.begun.item() == 1, "once begun it stays so"


def test_a_collapse_sounds_the_alarm() -> None:
    loss = teaching()
    labels = [0, 1, 2, 3] * 2
    spread = 3 * one_hot(torch.tensor(labels), K)
    one = torch.tensor([9.0, 0, 0, 0]).expand(8, K)
    for _ in range(20):
        taught(loss, spread, spread, labels)
    figures = {name: float(value) for name, value in loss.figures().items()}
    assert figures["prediction_spread"] == pytest.approx(1, abs=1e-3)
    assert loss.alarm(figures) == ""
    for _ in range(40):
        taught(loss, one, one, labels)
    figures = {name: float(value) for name, value in loss.figures().items()}
    assert figures["prediction_spread"] == pytest.approx(1 / K, abs=0.05)
    assert "collapses: the mean prediction spreads over 0.2" in loss.alarm(figures)
    assert Balanced(loss, BalanceConfig(), torch.ones(K)).alarm(figures) == loss.alarm(figures)


def test_the_prior_pulls_back_what_collapses() -> None:
    one = torch.tensor([[3.0, 0, 0, 0]] * 8, requires_grad=True)
    pulled = teaching(prior_strength=1.0)
    free = teaching(prior_strength=0.0)
    slopes = []
    for loss in (pulled, free):
        for _ in range(40):
            taught(loss, one, one.detach(), [0] * 8)
        [slope] = torch.autograd.grad(taught(loss, one, one.detach(), [0] * 8).sum(), one)
        slopes.append(slope[0])
    assert slopes[1][0] < 0 < slopes[0][0], "the logit of the class that takes all sinks"
    assert all(slopes[0][1:] < 0)


def test_a_balanced_loss_meets_teacher_and_student_with_the_same_prior() -> None:
    counts = torch.tensor([80, 10, 5, 5])
    config = LossConfig(
        name="self_label",
        balance=BalanceConfig(kind="balanced_softmax"),
        self_label=SelfLabelConfig(teacher="ema", start_ratio=0, start_agreement=0, floor=0),
    )
    loss = build(config, Labels(counts, 8, 100, 100))
    given = logits(4)
    loss.begin(1)
    loss(given, examples([0, 1, 2, 3], teacher=given))
    loss.settle(ALONE, KEEP)
    plain = build(replace(config, balance=BalanceConfig()), Labels(counts, 8, 100, 100))
    raised = given + (counts / 100).log()
    plain.begin(1)
    plain(raised, examples([0, 1, 2, 3], teacher=raised))
    plain.settle(ALONE, KEEP)
    for each in (loss, plain):
        each.begin(2)
    found = loss(given, examples([0, 1, 2, 3], teacher=given))
    expected = plain(raised, examples([0, 1, 2, 3], teacher=raised))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


COLLAPSING = [
    "loss.name=self_label",
    "loss.self_label.teacher=self",
    "loss.self_label.start_ratio=0",
    "loss.self_label.start_agreement=0",
    "loss.self_label.q=4",
    "loss.self_label.temperature=0",
    "epochs=60",
    "optim.lr=0.05",
    "update.mixup=0",
    "update.label_smoothing=0",
]


@pytest.mark.parametrize(
    ("safeguards", "collapses"),
    [((0.0, 0.0), True), ((0.5, 1.0), False)],
    ids=["without floor and prior", "with both"],
)
def test_a_run_begun_too_early_collapses_unless_it_is_held(
    tmp_path: Path, safeguards: tuple[float, float], collapses: bool
) -> None:
    floor, prior = safeguards
    held = [f"loss.self_label.floor={floor}", f"loss.self_label.prior_strength={prior}"]
    world = join(ONE_THREAD)
    try:
        run = TinyRun(world, tmp_path, [*COLLAPSING, *held])
        list(run.updates(90))
    finally:
        dist.destroy_process_group()
    figures = {name: float(value) for name, value in run.state.loss.figures().items()}
    assert bool(run.state.loss.alarm(figures)) == collapses, figures
