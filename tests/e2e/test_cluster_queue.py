"""A job that Kueue takes off a real node for one of higher priority, and lets go on later."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.e2e.accounts import SAMPLES, exactly_once, lost
from tests.e2e.chaos import calm
from tests.e2e.cluster_runs import ClusterRun

EPOCHS, URGENT_EPOCHS = 12, 2
UPDATES = EPOCHS * SAMPLES // 96
LONGEST_S = 900
"""It takes two minutes on two quiet cores."""
PATIENCE_S = 300.0


def until_state(run: ClusterRun, state: str) -> dict[str, object]:
    """The status of a job, once it is in a state."""
    ends_at = time.monotonic() + PATIENCE_S
    while (found := run.status())["state"] != state:
        assert time.monotonic() < ends_at, run.tell()
        time.sleep(0.3)
    return found


@pytest.mark.timeout(LONGEST_S)
def test_a_preempted_job_goes_on_from_its_checkpoint(
    make_queued_run: Callable[..., ClusterRun],
) -> None:
    patient = make_queued_run("patient", "low", EPOCHS)
    urgent = make_queued_run("urgent", "high", URGENT_EPOCHS)
    patient.submit()
    before = calm(patient, 2)
    urgent.submit()
    waiting = until_state(patient, "Queued")
    assert waiting["workers_running"] == 0
    assert str(waiting["reason"]).startswith("the queue")
    done = patient.updates(before)
    assert 0 < done < UPDATES

    urgent.finished()
    exactly_once(urgent, URGENT_EPOCHS)
    assert len(starts(urgent)) == 1, "nobody takes its place"

    patient.finished()
    assert patient.status()["state"] == "Succeeded"
    assert "Preempted" in evictions(patient)
    exactly_once(patient, EPOCHS)
    first, *_, last = starts(patient)
    assert (first["parent_update"], last["generation"]) == (0, before + 1)
    # SIGTERM left time for a last checkpoint: nothing is done again.
    assert lost(patient)[before + 1] == 0
    fence = json.loads(patient.stored(f"fences/{before + 1:04d}.json"))
    parent = f"step-{done:010d}-g{before:04d}/manifest.json"
    assert (fence["parent"], fence["parent_update"]) == (parent, done)
    assert patient.updates(before + 1) == UPDATES


def starts(run: ClusterRun) -> list[dict[str, object]]:
    return [line for line in run.metrics() if line["event"] == "start"]


def evictions(run: ClusterRun) -> list[str]:
    """Why Kueue evicted the job, by its Workload's conditions."""
    found = json.loads(run.kubectl("get", "workloads", "-o", "json"))["items"]
    (workload,) = [
        each for each in found if each["metadata"]["ownerReferences"][0]["name"] == run.name
    ]
    return [each["reason"] for each in workload["status"]["conditions"]]
