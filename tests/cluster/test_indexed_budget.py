"""Jobs of independent parts on a budget: what they hold, what is counted, and who ends them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import errors
from launcher.budget.pods import FINALIZER
from launcher.cluster import jobs_on
from launcher.cluster.client import Api
from launcher.cluster.kinds import BUDGET, JOB, POD, Object
from launcher.cluster.objects import pods_of
from launcher.render import render
from launcher.request import IndexedRequest
from tests import parts
from tests.cluster.budgeted import make_budget, namespace, status, wait_accounted
from tests.cluster.control_plane import ControlPlane
from tests.cluster.controllers import Process, controller, until
from tests.cluster.ledgers import CLUSTER, GPU_TYPE, end_pod, start_pod, stored
from tests.unit.launcher.goldens import GIVEN, indexed

DAY_S = 86_400


@pytest.fixture
def api(budgets: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The administrator, in a new namespace, with a node that has GPUs."""
    monkeypatch.setenv("KUBECONFIG", str(budgets.kubeconfig))
    with namespace(budgets) as made:
        yield made
        for job in made.listing(JOB).items:
            made.delete(JOB, job["metadata"]["name"])


@pytest.fixture
def keeper(budgets: ControlPlane, api: Api, tmp_path: Path) -> Iterator[Process]:
    """A controller with a ledger in a folder."""
    config = Path(shutil.copy(budgets.folder / "controller.yaml", tmp_path / "config"))
    flags = ("--ledger", str(tmp_path / "ledger"), "--cluster", CLUSTER)
    with controller(config, api.namespace, "one", *flags) as process:
        yield process


def objects(name: str = "parts", gpus: int = 2, deadline_s: int = DAY_S) -> list[Object]:
    """A job of four parts, two at once; its pods are held until they are counted."""
    request = IndexedRequest(
        name=name, image=GIVEN["image"], checkpoints=GIVEN["checkpoints"], budget="webvision",
        gpus=gpus, cpus=1, memory_gib=16 + 9 * gpus, deadline_s=deadline_s,
        overrides=("job.ledger=true",),
    )  # fmt: skip
    return render(indexed(request, parts.work(4)))


def placed(api: Api, count: int) -> list[Object]:
    def look() -> list[Object] | None:
        found = [pod for pod in pods_of(api, "parts") if pod["spec"].get("nodeName")]
        found = [pod for pod in found if pod["status"]["phase"] == "Pending"]
        return found if len(found) == count else None

    return until(look, f"{count} pods have a node")


def play(api: Api, pods: list[Object], *, phase: str = "") -> None:
    for pod in pods:
        start_pod(api, pod["metadata"]["name"])
    for pod in pods if phase else ():
        with contextlib.suppress(errors.NotFound):
            end_pod(api, pod["metadata"]["name"], phase)


def test_it_holds_its_gpus_until_it_is_done_and_each_pod_is_counted(
    api: Api, keeper: Process, tmp_path: Path
) -> None:
    make_budget(api, gpuDays=10)
    wait_accounted(api)
    jobs_on(api).submit(objects())
    (hold,) = status(api)["holds"]
    assert (hold["job"], hold["gpus"], hold["gpuMilliseconds"]) == ("parts", 4, 4 * DAY_S * 1000)
    assert hold["jobUID"] == api.get(JOB, "parts")["metadata"]["uid"]
    assert api.get(JOB, "parts")["metadata"]["annotations"]["launcher.dev/admitted-by"]
    with pytest.raises(errors.Refused, match=r"has 6.0 GPU-days left and this job may cost 16.0"):
        jobs_on(api).submit(objects("second", gpus=8))
    for _ in range(2):  # two parts at once, twice
        play(api, placed(api, 2), phase="Succeeded")
    until(lambda: jobs_on(api).status("parts").state == "Succeeded", "its end")

    def counted() -> bool:
        found = list(stored(tmp_path / "ledger").of_job(api.namespace, "parts"))
        return len(found) == 4 and all(each.is_closed for each in found)

    until(counted, "all its pods are stored")
    for each in stored(tmp_path / "ledger").of_job(api.namespace, "parts"):
        assert (each.gpus, each.owner.gpu_type, each.owner.stage) == (2, GPU_TYPE, "parts")
        assert each.owner.job_uid == hold["jobUID"]

    def let_go() -> bool:
        left = [FINALIZER in pod["metadata"].get("finalizers", ()) for pod in pods_of(api, "parts")]
        return not any(left)

    until(let_go, "its pods are let go")


def test_it_starts_with_as_many_pods_as_fit(api: Api, keeper: Process) -> None:
    make_budget(api, gpuDays=3)
    wait_accounted(api)
    told: list[str] = []
    jobs_on(api, told.append).submit(objects())
    assert "its budget has room for 1 of 2 workers: it starts so" in told
    assert api.get(JOB, "parts")["spec"]["parallelism"] == 1
    with pytest.raises(errors.Refused):
        jobs_on(api).scale("parts", 2)
    assert api.get(JOB, "parts")["spec"]["parallelism"] == 1


def test_without_gpus_it_takes_nothing_and_leaves_no_pod_hanging(api: Api, keeper: Process) -> None:
    make_budget(api, gpuDays=1)
    wait_accounted(api)
    jobs_on(api).submit(objects(gpus=0, deadline_s=0))
    assert status(api).get("holds", []) == []
    play(api, placed(api, 2), phase="Succeeded")
    play(api, placed(api, 2), phase="Succeeded")
    until(lambda: jobs_on(api).status("parts").state == "Succeeded", "its end")
    jobs_on(api).delete("parts")
    until(lambda: not api.listing(POD).items, "its pods are gone")


def test_one_that_did_not_ask_is_judged_and_suspended_where_nothing_is_left(
    api: Api, keeper: Process
) -> None:
    make_budget(api, gpuDays=1)
    wait_accounted(api)
    for thing in objects():  # as kubectl would: four GPU-days
        api.create(thing)
    until(lambda: api.get(JOB, "parts")["spec"].get("suspend"), "the budget suspends it")
    found = jobs_on(api).status("parts")
    assert found.state == "Suspended"
    assert 'budget "webvision" has 1.0 GPU-days left' in found.reason
    api.patch(BUDGET, "webvision", {"spec": {"gpuDays": 10}})
    jobs_on(api).resume("parts")
    assert api.get(JOB, "parts")["spec"]["suspend"] is False
    assert [each["gpus"] for each in status(api)["holds"]] == [4]


def test_the_controller_ends_it_at_its_deadline_and_deletes_it_in_time(
    api: Api, keeper: Process
) -> None:
    (job,) = objects(gpus=0, deadline_s=0)
    job["metadata"]["annotations"]["launcher.dev/deadline-s"] = "1"
    job["metadata"]["labels"].pop("launcher.dev/budget")
    job["spec"]["ttlSecondsAfterFinished"] = 3
    api.create(job)
    until(lambda: jobs_on(api).status("parts").state == "Failed", "its deadline")
    found = jobs_on(api).status("parts")
    assert found.reason == "its deadline of 1 s is over (suspended time does not count)"
    assert api.get(JOB, "parts")["spec"]["suspend"] is True
    until(lambda: api.find(JOB, "parts") is None, "it is deleted after its time")
