"""The chosen set against all sets, the schedule, and the sentence of each refusal."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.errors import UsageError
from launcher.plan import Limits, Plan, Question, make_plan, packaged_networks, read_hardware
from launcher.plan.accuracy import ensemble_top1, run_top1
from launcher.plan.choice import Candidate, choose
from launcher.plan.refusals import amount
from launcher.plan.schedule import lay_out

HARDWARE = read_hardware()
NETWORKS = packaged_networks()


def team(**limits: object) -> Plan:
    """The team's question: its networks, its GPUs."""
    return make_plan(
        Question("TITAN Xp", Limits(64, **limits), NETWORKS),  # type: ignore[arg-type]
        HARDWARE,
    )


def names(plan: Plan) -> list[str]:
    return [slot.run.model for slot in plan.slots]


def is_allowed(chosen: tuple[Candidate, ...], limits: Limits) -> bool:
    """The limits as a person would check them, one by one."""
    if len({run.model for run in chosen}) < len(chosen):
        return False
    slots = lay_out(chosen, limits)
    if limits.most_networks is not None and len(slots) > limits.most_networks:
        return False
    if any(slot.days > limits.span_days for slot in slots):
        return False
    if limits.schedule == "parallel" and sum(slot.gpus for slot in slots) > limits.gpus:
        return False
    last = max((slot.end_day for slot in slots), default=0)
    if limits.deadline_days is not None and last > limits.deadline_days:
        return False
    budget = limits.budget_gpu_days
    return budget is None or sum(run.gpu_days for run in chosen) <= budget


def brute_force(candidates: list[Candidate], limits: Limits) -> float:
    """The best value over all sets."""
    alone = [run.top1 for run in candidates if is_allowed((run,), limits)]
    sets = (s for count in range(len(candidates) + 1) for s in combinations(candidates, count))
    return max(ensemble_top1(s, max(alone, default=0)) for s in sets if is_allowed(s, limits))


# Whole numbers and quarters: sums are exact, so a set is inside a limit or a whole unit outside.
runs = st.builds(
    Candidate,
    model=st.sampled_from("abcde"),
    family=st.sampled_from("xyz"),
    size_px=st.just(224),
    epochs=st.just(150.0),
    gpu_days=st.integers(1, 40).map(float),
    top1=st.integers(200, 340).map(lambda quarter: quarter / 4),
)
maybe = st.none() | st.integers(1, 60).map(float)
bounds = st.builds(
    Limits,
    gpus=st.sampled_from([1, 4]),
    network_days=maybe,
    deadline_days=maybe,
    budget_gpu_days=maybe,
    most_networks=st.none() | st.integers(1, 4),
)


@settings(max_examples=150)
@given(st.lists(runs, min_size=1, max_size=8), bounds)
def test_no_set_is_better_than_the_chosen_one(candidates: list[Candidate], limits: Limits) -> None:
    chosen = tuple(choose(candidates, limits))
    assert is_allowed(chosen, limits)
    alone = [run.top1 for run in candidates if is_allowed((run,), limits)]
    value = ensemble_top1(chosen, max(alone, default=0))
    assert value == pytest.approx(brute_force(candidates, limits), abs=1e-5)


@settings(max_examples=60)
@given(
    st.lists(runs, min_size=1, max_size=7), st.integers(2, 16), st.integers(1, 30).map(float), maybe
)
def test_nor_when_they_run_beside_each_other(
    candidates: list[Candidate], gpus: int, days: float, budget: float | None
) -> None:
    limits = Limits(gpus, deadline_days=days, budget_gpu_days=budget, schedule="parallel")
    chosen = tuple(choose(candidates, limits))
    assert is_allowed(chosen, limits)
    alone = [run.top1 for run in candidates if is_allowed((run,), limits)]
    value = ensemble_top1(chosen, max(alone, default=0))
    assert value == pytest.approx(brute_force(candidates, limits), abs=1e-5)


def test_under_12_days_the_team_took_its_resnext152_and_so_does_the_plan() -> None:
    plan = team(network_days=12, most_networks=1)
    assert names(plan) == ["resnext152d_32x4d"]
    assert set(plan.refusals) == NETWORKS.keys() - {"resnext152d_32x4d"}
    # With room for more it still leads, and what is over the limit stays out.
    wider = team(network_days=12)
    assert names(wider)[0] == "resnext152d_32x4d"
    assert not {"nasnetalarge", "pnasnet5large", "senet154"} & set(names(wider))


def test_a_refusal_tells_its_figures_and_the_limit() -> None:
    over = team(network_days=12).refusals["nasnetalarge"]
    assert over == (
        "nasnetalarge: 3,963 GPU-days, 61.9 days on 64 GPUs; over the limit of 12 days for a "
        "network"
    )
    over = team(deadline_days=12).refusals["senet154"]
    assert over == ("senet154: 1,189 GPU-days, 18.6 days on 64 GPUs; over the deadline of 12 days")
    over = team(budget_gpu_days=700).refusals["inception_resnet_v2"]
    assert over.endswith("; over the budget of 700 GPU-days")
    one = team(budget_gpu_days=700)
    assert names(one) == ["resnext152d_32x4d"]
    assert one.refusals["dpn98"].endswith(
        "; fits alone, but 687 of the 700 GPU-days of the budget serve better in the networks "
        "chosen"
    )
    late = team(deadline_days=13).refusals["dpn98"]
    assert late.endswith(
        "; fits alone, but after the networks chosen it would end on day 21.2, over the deadline "
        "of 13 days"
    )
    few = team(network_days=12, most_networks=1).refusals["dpn98"]
    assert few.endswith("; fits, but resnext152d_32x4d serves better, and more are not allowed")


def test_every_network_is_chosen_or_refused() -> None:
    for limits in ({}, {"budget_gpu_days": 2000}, {"deadline_days": 40}, {"budget_gpu_days": 1}):
        plan = team(**limits)
        assert set(names(plan)) | set(plan.refusals) == NETWORKS.keys()
        assert not set(names(plan)) & set(plan.refusals)


def test_a_nearly_equal_network_that_errs_otherwise_is_the_better_second() -> None:
    first = Candidate("a", "x", 224, 150, 1, 80.0)
    alike = Candidate("b", "x", 224, 150, 1, 79.5)
    other = Candidate("c", "y", 224, 150, 1, 79.0)
    assert choose([first, alike, other], Limits(1, most_networks=2)) == [first, other]


def test_one_after_another_each_has_all_gpus() -> None:
    slots = team(network_days=12).slots
    assert {slot.gpus for slot in slots} == {64}
    assert slots[0].start_day == 0
    for before, after in pairwise(slots):
        assert after.start_day == before.end_day
    assert slots[-1].end_day == pytest.approx(sum(slot.run.gpu_days for slot in slots) / 64)


def test_beside_each_other_they_share_the_gpus_and_meet_the_deadline() -> None:
    plan = team(deadline_days=50, schedule="parallel")
    assert len(plan.slots) > 2
    assert sum(slot.gpus for slot in plan.slots) <= 64
    assert all(slot.start_day == 0 and slot.end_day <= 50 for slot in plan.slots)
    kept_out = next(iter(plan.refusals.values()))
    assert "over the deadline" in kept_out or "serve better in the networks chosen" in kept_out
    with pytest.raises(UsageError, match="give --deadline or --network-days"):
        team(schedule="parallel")


def test_longer_and_larger_is_better_and_each_step_gives_less() -> None:
    by_epochs = [run_top1(80, 224, 224, epochs) for epochs in (50, 100, 150, 200)]
    by_size = [run_top1(80, 224, size, 150) for size in (192, 224, 256, 288)]
    for values in (by_epochs, by_size):
        steps = [after - before for before, after in pairwise(values)]
        assert all(step > 0 for step in steps)
        assert steps == sorted(steps, reverse=True)
    assert run_top1(80, 224, 224, 150) == 80


def test_with_less_to_spend_a_network_is_trained_shorter() -> None:
    def epochs(budget: float) -> float:
        question = Question(
            "TITAN Xp",
            Limits(64, budget_gpu_days=budget, most_networks=1),
            {"resnext152d_32x4d": NETWORKS["resnext152d_32x4d"]},
            epochs=(60.0, 100.0, 150.0),
        )
        [slot] = make_plan(question, HARDWARE).slots
        return slot.run.epochs

    assert [epochs(budget) for budget in (300, 500, 700)] == [60, 100, 150]


def test_amounts_are_short() -> None:
    shown = [amount(value) for value in (4288, 67, 61.93, 8.0, 0.0123)]
    assert shown == ["4,288", "67", "61.9", "8", "0.012"]
