"""The digits trained by a real job on a real node, with data and checkpoints in a bucket."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.e2e.accounts import exactly_once
from tests.e2e.cluster_runs import ClusterRun, wait_for_workers

EPOCHS = 5
LONGEST_S = 900


@pytest.mark.timeout(LONGEST_S)
def test_a_submitted_job_trains_in_pods(make_cluster_run: Callable[..., ClusterRun]) -> None:
    run = make_cluster_run("digits", epochs=EPOCHS)
    run.submit()
    pods = wait_for_workers(run, 2)
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert not any("secret-of-tests" in json.dumps(pod) for pod in pods)
    run.finished()
    assert run.status()["state"] == "Succeeded"
    exactly_once(run, EPOCHS)
    ended = json.loads(run.kubectl("get", "pytorchjob", run.name, "-o", "json"))
    true = [each["type"] for each in ended["status"]["conditions"] if each["status"] == "True"]
    assert "Succeeded" in true
