"""A hard budget on a real node: a run is ended in time, saved, and goes on once there is more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.budget.budgets import DAY_MS
from launcher.budget.objects import EXHAUSTED, condition_of, is_accounted, written_at_ms
from launcher.budget.records import Effort
from launcher.cluster.client import Api
from launcher.cluster.kinds import BUDGET, Object
from launcher.cluster.transport import connect
from tests.cluster.controllers import until
from tests.cluster.ledgers import stored
from tests.e2e.accounts import exactly_once, lost
from tests.e2e.chaos import calm
from tests.e2e.cluster_runs import ClusterRun
from tests.e2e.ledgered import kept_ledger
from tests.e2e.runs import launcher

EPOCHS = 30
GPUS = 2
GRACE_S, LIMIT_S = 30, 120
"""GPU-seconds: the end begins when half of them are used, as two GPUs may take the rest to save."""
NAME = "e2e-hard"


@pytest.fixture
def charged(
    make_cluster_run: Callable[..., ClusterRun], tmp_path: Path
) -> Iterator[tuple[ClusterRun, Path]]:
    """A run on a hard budget, and the folder of the ledger that a controller keeps."""
    options = (f"--budget={NAME}", "log.metrics_port=9090")
    run = make_cluster_run("charged", *options, workers=(GPUS, GPUS, GPUS), epochs=EPOCHS)
    days = str(LIMIT_S / 86_400)
    limits = ("--gpu-days", days, "--mode", "hard", "--grace", f"{GRACE_S}s")
    with kept_ledger(run, NAME, tmp_path, *limits) as ledger:
        yield run, ledger


def test_a_hard_budget_ends_a_run_in_time_and_it_goes_on(charged: tuple[ClusterRun, Path]) -> None:
    run, ledger = charged
    api = Api(connect(), run.namespace)

    def budget() -> Object:
        return api.get(BUDGET, NAME)

    until(lambda: is_accounted(budget()) and written_at_ms(budget()), "accounted")
    run.submit()
    calm(run, GPUS)
    until(lambda: run.status()["state"] == "Suspended" and not run.pods(), "suspended", 120)
    status = run.status()
    assert f'budget "{NAME}" is' in status["reason"]
    used_s = stored(ledger).used(NAME) / 1000
    print(f"used {used_s:.0f} of {LIMIT_S} GPU-seconds; at most {LIMIT_S + GRACE_S * GPUS}")
    assert LIMIT_S - GRACE_S * GPUS <= used_s <= LIMIT_S + GRACE_S * GPUS

    launcher("budget", "set", NAME, "--gpu-days", "10")
    until(lambda: budget()["status"]["gpuDays"]["remaining"] > 9, "there is more")
    run.launcher("resume")
    run.finished("240s")
    assert run.status()["state"] == "Succeeded"
    exactly_once(run, EPOCHS)
    assert set(lost(run).values()) == {0}, "it saved before it left"
    told = condition_of(budget(), EXHAUSTED)
    assert told is not None
    assert told["status"] == "False"
    spent_ms = stored(ledger).used(NAME)
    assert used_s * 1000 < spent_ms < DAY_MS

    def effort() -> Effort | None:
        """Once all that the run was charged is told apart."""
        known = stored(ledger)
        found = next(known.efforts(), None)
        counted = sum(each.counted_gpu_ms for each in known.of_job(run.namespace, run.name))
        return found if found is not None and found.total_ms == counted else None

    found = until(effort, "it is known what the GPU time was spent on", 150)
    print(f"goodput {found.good_ms / found.total_ms:.0%}, {found.wasted()}")
    assert found.good_ms > 0
    assert found.startup_ms > 0
