"""A job on a real node that loses each of its parts once, and is scaled: no sample is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.accounts import exactly_once
from tests.e2e.chaos import LOSSES, SCALING, strike
from tests.e2e.cluster_runs import ClusterRun

EPOCHS = 40
LONGEST_S = 1500
"""It takes some minutes on two quiet cores."""


@pytest.mark.timeout(LONGEST_S)
def test_a_job_outlasts_the_loss_of_any_part(make_cluster_run: Callable[..., ClusterRun]) -> None:
    run = make_cluster_run("storm", epochs=EPOCHS)
    run.submit()
    for loss in (*LOSSES, *SCALING):
        outcome = strike(run, loss)
        print(f"{loss.name:<30}{outcome.pause_s:6.1f} s, {outcome.whole_s:6.1f} s", flush=True)
        assert outcome.world >= 2, f"after {loss.name} fewer than two went on"
    run.finished()
    assert run.status()["state"] == "Succeeded"
    exactly_once(run, EPOCHS)
