"""Budgets as an admission check of real Kueue: a job has its quota, and waits for its budget."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import connect
from launcher.cluster.client import Api
from launcher.cluster.kinds import ADMISSION_CHECK, PYTORCHJOB
from launcher.cluster.objects import workload_of
from launcher.render import render
from launcher.request import IndexedRequest
from tests import parts
from tests.cluster.budgeted import defined, make_budget, status, wait_accounted
from tests.cluster.cli import Cli
from tests.cluster.cluster import Cluster
from tests.cluster.controllers import controller, objects_of, until
from tests.cluster.ledgers import CLUSTER
from tests.cluster.queue import queue_objects
from tests.unit.launcher.goldens import GIVEN, indexed

QUOTA = 4
CHECK = "budget"
ROLE = "clusterrole/launcher-controller"


@pytest.fixture(scope="module")
def budgets(queued: Cluster) -> Iterator[Cluster]:
    """With the definition of Budget, and an AdmissionCheck that nobody answers for yet."""
    with defined(queued.plane):
        check = {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "AdmissionCheck",
            "metadata": {"name": CHECK},
            "spec": {"controllerName": "launcher.dev/budget"},
        }
        queued.plane.apply(check)
        yield queued
        queued.plane.kubectl("delete", "admissioncheck", CHECK)


@pytest.fixture
def api(budgets: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The administrator, in a new namespace with a queue of the same name that has the check."""
    name, plane = f"check-{uuid.uuid4().hex[:8]}", budgets.plane
    plane.kubectl("create", "namespace", name)
    objects = queue_objects(name, name, QUOTA)
    objects[1]["spec"]["admissionChecksStrategy"] = {"admissionChecks": [{"name": CHECK}]}
    plane.apply(*objects)
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    yield connect("", name)
    plane.kubectl("delete", "pytorchjob", "--all", "-n", name, "--wait=false")
    plane.kubectl("delete", "budgets.launcher.dev", "--all")
    plane.kubectl("delete", "namespace", name, "--wait=false")
    plane.kubectl("delete", "clusterqueue", name, "--wait=false")


@pytest.fixture
def cli(
    budgets: Cluster, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Cli:  # fmt: skip
    return Cli(budgets.plane, api.namespace, tmp_path, capsys, monkeypatch)


@pytest.fixture
def keeping(budgets: Cluster, api: Api, tmp_path: Path) -> Iterator[None]:
    """A controller that keeps a ledger."""
    config = Path(shutil.copy(budgets.plane.folder / "controller.yaml", tmp_path / "config"))
    flags = ("--ledger", str(tmp_path / "ledger"), "--cluster", CLUSTER)
    with controller(config, api.namespace, "one", *flags) as process:
        yield
        assert "Traceback" not in process.said()


def apply(api: Api, name: str, budget: str = "", **notes: str) -> None:
    """Makes a job of three GPUs as kubectl would: nobody has asked a budget for it."""
    for thing in objects_of(name, **notes):
        if thing["kind"] == "PyTorchJob":
            thing["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = api.namespace
            if budget:
                thing["metadata"]["labels"]["launcher.dev/budget"] = budget
            thing["spec"]["runPolicy"]["suspend"] = True
        api.create(thing)


def word(api: Api, name: str) -> dict[str, Any]:
    """What the check says of a job; empty before its Workload has quota."""
    found = workload_of(api, api.get(PYTORCHJOB, name))
    told = found[0].get("status", {}).get("admissionChecks", ()) if found else ()
    return next((dict(each) for each in told if each["name"] == CHECK), {})


def state(cli: Cli, name: str) -> str:
    return str(json.loads(cli.out("status", name, "-o", "json"))["state"])


@pytest.mark.usefixtures("keeping")
def test_a_job_starts_once_its_budget_lets_it(api: Api, cli: Cli) -> None:
    make_budget(api, gpuDays=1)
    wait_accounted(api)
    active = until(
        lambda: api.get(ADMISSION_CHECK, CHECK).get("status", {}).get("conditions"), "told"
    )
    assert [(each["type"], each["status"]) for each in active] == [("Active", "True")]
    apply(api, "paid", "webvision", deadline_s="3600")
    until(lambda: state(cli, "paid") == "Running", "running")
    assert word(api, "paid")["message"] == 'budget "webvision" lets it run'
    (hold,) = status(api)["holds"]
    assert (hold["job"], hold["gpuMilliseconds"]) == ("paid", 3 * 3_600_000)
    cli.out("cancel", "paid", "--yes")
    apply(api, "free")
    until(lambda: state(cli, "free") == "Running", "running")
    assert word(api, "free")["state"] == "Ready"


@pytest.mark.usefixtures("keeping")
def test_a_job_that_its_budget_cannot_carry_is_deactivated_and_can_be_resumed(
    api: Api, cli: Cli
) -> None:
    make_budget(api, gpuDays=1)
    wait_accounted(api)
    apply(api, "large", "webvision", deadline_s=str(8 * 86_400))
    until(lambda: state(cli, "large") == "Suspended", "deactivated")
    reason = json.loads(cli.out("status", "large", "-o", "json"))["reason"]
    assert 'budget "webvision" has 1.0 GPU-days left and this job may cost 24.0' in reason
    found = workload_of(api, api.get(PYTORCHJOB, "large"))
    assert found is not None
    assert found[0]["spec"]["active"] is False
    assert {each["reason"]: each["count"] for each in status(api)["refusals"]} == {"OverBudget": 1}
    assert "GPU-days left" in cli.fails(4, "resume", "large")
    cli.out("budget", "set", "webvision", "--gpu-days", "30")
    cli.out("resume", "large")
    until(lambda: state(cli, "large") == "Running", "running")
    assert [each["job"] for each in status(api)["holds"]] == ["large"]


@pytest.mark.usefixtures("keeping")
def test_a_job_of_independent_parts_waits_for_its_budget_too(api: Api, cli: Cli) -> None:
    make_budget(api, gpuDays=1)
    wait_accounted(api)
    request = IndexedRequest(
        name="parts", image=GIVEN["image"], checkpoints=GIVEN["checkpoints"], gpus=1, cpus=1,
        budget="webvision", queue=api.namespace, deadline_s=8 * 86_400,
    )  # fmt: skip
    for thing in render(indexed(request, parts.work(4))):  # as kubectl would
        api.create(thing)
    until(lambda: state(cli, "parts") == "Suspended", "deactivated")
    reason = json.loads(cli.out("status", "parts", "-o", "json"))["reason"]
    assert 'budget "webvision" has 1.0 GPU-days left and this job may cost 16.0' in reason
    cli.out("budget", "set", "webvision", "--gpu-days", "30")
    cli.out("resume", "parts")
    until(lambda: state(cli, "parts") == "Running", "running")
    assert [(each["job"], each["gpus"]) for each in status(api)["holds"]] == [("parts", 2)]
    cli.out("delete", "parts", "--yes", "--force")


@pytest.mark.usefixtures("keeping")
def test_while_nobody_accounts_a_job_is_asked_for_again(
    api: Api, cli: Cli, budgets: Cluster
) -> None:
    """The controller may not write budgets for a while, so none tells that it is accounted."""
    plane = budgets.plane
    rules = json.loads(plane.kubectl("get", ROLE, "-o", "json"))["rules"]
    fewer = [rule for rule in rules if rule["resources"] != ["budgets/status"]]

    def give(rules: list[dict[str, Any]]) -> None:
        change = json.dumps({"rules": rules})
        plane.kubectl("patch", ROLE, "--type=merge", "-p", change)

    give(fewer)
    try:
        make_budget(api, gpuDays=1)
        apply(api, "paid", "webvision", deadline_s="3600")
        until(lambda: "is not accounted" in word(api, "paid").get("message", ""), "asked again")
        assert state(cli, "paid") == "Queued"
        reason = json.loads(cli.out("status", "paid", "-o", "json"))["reason"]
        assert "budget" in reason
    finally:
        give(rules)
    until(lambda: state(cli, "paid") == "Running", "running", 120)
    assert word(api, "paid")["state"] == "Ready"
