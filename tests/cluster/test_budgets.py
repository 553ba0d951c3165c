"""Budgets on a real API server: who may start, who is ended, and that nobody gets in twice."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from launcher import errors
from launcher.budget.budgets import DAY_MS
from launcher.budget.objects import iso
from launcher.budget.records import Interval
from launcher.cluster import connect, jobs_on, ledger
from launcher.cluster.client import Api
from launcher.cluster.kinds import BUDGET, EVENT, POD, PYTORCHJOB, Object
from launcher.cluster.objects import pods_of
from tests.cluster.budgeted import make_budget, namespace, status, wait_accounted
from tests.cluster.cli import Cli
from tests.cluster.control_plane import ControlPlane
from tests.cluster.controllers import Process, controller, objects_of, until
from tests.cluster.ledgers import CLUSTER, end_pod, make_pod, start_pod, stored

HOUR_MS = 3_600_000
GIVEN = (
    *("submit", "--model", "resnet18", "--image", "registry.example/trainer:1"),
    *("--data", "s3://webvision/train", "--checkpoints", "s3://webvision/runs"),
    *("--budget", "webvision", "job.gpus_per_worker=1"),
)


@pytest.fixture
def api(budgets: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The administrator, in a new namespace, with a node that has GPUs."""
    monkeypatch.setenv("KUBECONFIG", str(budgets.kubeconfig))
    with namespace(budgets) as made:
        yield made


@pytest.fixture
def cli(
    budgets: ControlPlane,
    api: Api,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Cli:
    return Cli(budgets, api.namespace, tmp_path, capsys, monkeypatch)


@pytest.fixture
def keeping(
    budgets: ControlPlane, api: Api, tmp_path: Path
) -> Callable[[], contextlib.AbstractContextManager[Process]]:
    """Controllers with a ledger in a folder."""
    config = Path(shutil.copy(budgets.folder / "controller.yaml", tmp_path / "config"))

    def keep() -> contextlib.AbstractContextManager[Process]:
        flags = ("--ledger", str(tmp_path / "ledger"), "--cluster", CLUSTER)
        return controller(config, api.namespace, "one", *flags)

    return keep


def accounted(api: Api, name: str = "webvision", used_ms: int = 0) -> None:
    """Says what a controller would of a budget, at this moment."""
    now = iso(api.transport.clock.now_ms())
    condition = {
        "type": "Accounted", "status": "True", "reason": "NoFinalizer", "message": "",
        "lastTransitionTime": now,
    }  # fmt: skip
    told = {"asOf": now, "usedGPUMilliseconds": used_ms, "conditions": [condition]}
    api.patch(BUDGET, name, {"status": told}, subresource="status")


def run_workers(api: Api, name: str, count: int) -> list[Object]:
    """Waits for a job's pods and says that they run."""

    def look() -> list[Object] | None:
        found = [pod for pod in pods_of(api, name) if pod["spec"].get("nodeName")]
        return found if len(found) == count else None

    pods = until(look, f"{count} pods of {name} have a node")
    for pod in pods:
        start_pod(api, pod["metadata"]["name"])
    return pods


def refusals(api: Api) -> dict[str, int]:
    return {each["reason"]: each["count"] for each in status(api).get("refusals", ())}


def test_a_submit_over_the_budget_is_refused_in_one_sentence(api: Api, cli: Cli) -> None:
    make_budget(api, gpuDays=500)
    accounted(api, used_ms=189 * DAY_MS)
    flags = (*GIVEN, "--gpus", "64", "--min-gpus", "64", "--deadline", "8d")
    sentence = (
        'error: budget "webvision" has 311.0 GPU-days left and this job may cost 512.0 '
        "(64 GPUs × 8 days); lower --gpus or --deadline, or raise the budget"
    )
    assert cli.fails(4, *flags, "--name", "large") == sentence
    assert cli.fails(4, *flags, "--name", "large", "--dry-run=server") == sentence
    assert refusals(api) == {"OverBudget": 2}
    assert cli.names("pytorchjobs") == cli.names("services") == cli.names("jobs") == []
    assert "give --deadline" in cli.fails(4, *GIVEN, "--gpus", "8", "--name", "endless")
    assert refusals(api) == {"OverBudget": 2, "NoDeadline": 1}


def test_a_dry_run_tells_what_it_would_reserve(api: Api, cli: Cli) -> None:
    make_budget(api, gpuDays=500)
    accounted(api, used_ms=189 * DAY_MS)
    flags = (*GIVEN, "--gpus", "64", "--deadline", "48h", "--name", "tried", "-o", "name")
    _, _, said = cli(*flags, "--dry-run=server")
    assert "reserves 64 GPUs × 2 days = 128.0 GPU-days; 311.0 of 500.0 remain" in said
    assert status(api).get("holds", []) == []
    _, _, said = cli(*flags, "--dry-run=client")
    assert "reserves 64 GPUs × 2 days = 128.0 GPU-days" in said


def test_a_job_holds_its_time_and_starts_as_large_as_fits(api: Api, cli: Cli) -> None:
    make_budget(api, gpuDays=10)
    accounted(api)
    flags = (*GIVEN, "--gpus", "8", "--min-gpus", "4", "--deadline", "2d")
    _, _, said = cli(*flags, "--name", "first")
    assert "room for 5 of 8 workers" in said
    job = api.get(PYTORCHJOB, "first")
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 5
    assert job["metadata"]["annotations"]["launcher.dev/admitted-by"] == "webvision"
    (hold,) = status(api)["holds"]
    assert (hold["jobUID"], hold["job"], hold["gpus"]) == (job["metadata"]["uid"], "first", 5)
    assert hold["gpuMilliseconds"] == 10 * DAY_MS
    assert "has 0.0 GPU-days left" in cli.fails(4, *flags, "--name", "second")
    assert "6 GPUs" in cli.fails(4, "scale", "first", "--workers", "6")
    assert api.get(PYTORCHJOB, "first")["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 5
    cli.out("cancel", "first", "--yes", "--grace", "0s")
    assert "another run of it asks" not in cli.out(*flags, "--name", "first"), "its hold is its own"
    (again,) = status(api)["holds"]
    assert again["jobUID"] != hold["jobUID"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"namespaces": ["elsewhere"]}, "is for elsewhere"),
        (
            {"period": {"from": "2020-01-01T00:00:00Z", "until": "2021-01-01T00:00:00Z"}},
            "ended on 2021-01-01",
        ),
    ],
)
def test_budgets_that_are_closed(api: Api, cli: Cli, spec: dict[str, Any], words: str) -> None:
    make_budget(api, gpuDays=10, **spec)
    accounted(api)
    assert words in cli.fails(4, *GIVEN, "--gpus", "1", "--deadline", "1h", "--name", "late")
    assert refusals(api) == {"NotAllowed": 1}


def test_an_unknown_budget_and_one_that_nobody_keeps(api: Api, cli: Cli) -> None:
    flags = (*GIVEN, "--gpus", "1", "--deadline", "1h", "--name", "early")
    assert 'no budget "webvision"; there are: none' in cli.fails(4, *flags)
    make_budget(api, gpuDays=10)
    assert "no controller with --ledger" in cli.fails(4, *flags)
    accounted(api)
    old = {"status": {"asOf": "2026-01-01T00:00:00Z"}}
    api.patch(BUDGET, "webvision", old, subresource="status")
    assert "is the controller running?" in cli.fails(4, *flags)
    assert refusals(api) == {"NoLedger": 2}


def test_of_two_submits_for_the_last_days_one_gets_in(api: Api, cli: Cli) -> None:
    """100 of 100 times."""
    make_budget(api, gpuDays=1)
    rendered = []
    for name in ("one", "two"):
        text = cli.out(
            *GIVEN, "--gpus", "1", "--deadline", "20h", "--dry-run=client", "-o", "json",
            "--name", name,
        )  # fmt: skip
        rendered.append(json.loads(text)["items"])
    callers = [jobs_on(connect("", api.namespace)) for _ in rendered]

    def submit(which: int) -> str:
        with contextlib.suppress(errors.Refused):
            return callers[which].submit(rendered[which]).name
        return ""

    with ThreadPoolExecutor(2) as pool:
        for _ in range(100):
            accounted(api)
            admitted = [name for name in pool.map(submit, (0, 1)) if name]
            assert len(admitted) == 1
            (hold,) = status(api)["holds"]
            assert hold["job"] == admitted[0]
            assert [each["metadata"]["name"] for each in api.listing(PYTORCHJOB).items] == admitted
            api.delete(PYTORCHJOB, admitted[0])
            until(lambda: not api.listing(PYTORCHJOB).items, "it is gone")
            api.patch(BUDGET, "webvision", {"status": {"holds": []}}, subresource="status")
    assert refusals(api) == {"OverBudget": 100}


def test_what_was_applied_by_hand_is_judged(
    api: Api, cli: Cli, keeping: Callable[[], contextlib.AbstractContextManager[Process]]
) -> None:
    make_budget(api, gpuDays=1)
    with keeping():
        wait_accounted(api)
        for name, deadline_s in (("fits", 3600), ("large", 86_400)):
            for thing in objects_of(name, deadline_s=str(deadline_s)):
                thing["metadata"]["labels"]["launcher.dev/budget"] = "webvision"
                api.create(thing)
        until(lambda: len(status(api).get("holds", ())) == 1, "one holds")
        (hold,) = status(api)["holds"]
        assert (hold["job"], hold["gpuMilliseconds"]) == ("fits", 3 * HOUR_MS)
        until(lambda: cli.state("large") == "Suspended", "the other one is suspended")
        assert "has 0.9 GPU-days left" in cli.status("large")["reason"]
        assert cli.state("fits") != "Suspended"
        assert refusals(api) == {"OverBudget": 1}
        api.patch(BUDGET, "webvision", {"spec": {"gpuDays": 5}})
        cli.out("resume", "large")
        assert cli.state("large") != "Suspended"
        assert {each["job"] for each in status(api)["holds"]} == {"fits", "large"}


@pytest.mark.parametrize("on_exhaustion", ["suspend", "shrink"])
def test_hard_ends_in_time_and_goes_on_once_there_is_more(
    api: Api,
    cli: Cli,
    keeping: Callable[[], contextlib.AbstractContextManager[Process]],
    tmp_path: Path,
    on_exhaustion: str,
) -> None:
    """4 GPUs may use 130 GPU-seconds, and need 120 of them to save."""
    grace_s, limit_s = 30, 130
    days = limit_s / 86_400
    make_budget(api, gpuDays=days, mode="hard", graceSeconds=grace_s, onExhaustion=on_exhaustion)
    with keeping() as process:
        wait_accounted(api)
        cli.out(*GIVEN, "--gpus", "4", "--min-gpus", "2", "--name", "long")
        pods = run_workers(api, "long", 4)
        if on_exhaustion == "shrink":
            until(lambda: _replicas(api, "long") == 2, "it shrinks")
            for pod in pods[2:]:
                end_pod(api, pod["metadata"]["name"], "Failed")
        until(lambda: _policy(api, "long").get("suspend"), "it is suspended")
        for pod in pods if on_exhaustion == "suspend" else pods[:2]:
            end_pod(api, pod["metadata"]["name"], "Failed")
        until(lambda: cli.state("long") == "Suspended", "it stands still")
        assert 'budget "webvision" is' in cli.status("long")["reason"]
        until(lambda: not ledger.held_pods(api, api.namespace), "all that it used is stored")
        used = stored(tmp_path / "ledger").used("webvision")
        assert limit_s - grace_s * 4 <= used / 1000 <= limit_s + grace_s * 4
        reasons = {each["reason"] for each in api.listing(EVENT).items}
        assert {"suspend": "BudgetSuspended", "shrink": "BudgetShrunk"}[on_exhaustion] in reasons
        api.patch(BUDGET, "webvision", {"spec": {"gpuDays": used / DAY_MS / 2}})
        until(lambda: status(api)["usedGPUMilliseconds"] == used, "told")
        assert "is used up" in cli.fails(4, "resume", "long")
        api.patch(BUDGET, "webvision", {"spec": {"gpuDays": 10}})
        cli.out("resume", "long")
        assert cli.state("long") != "Suspended"
        assert "Traceback" not in process.said()


def test_soft_only_tells(
    api: Api, cli: Cli, keeping: Callable[[], contextlib.AbstractContextManager[Process]]
) -> None:
    make_budget(api, gpuDays=0, mode="soft")
    with keeping():
        wait_accounted(api)
        code, _, said = cli(*GIVEN, "--gpus", "1", "--name", "free")
        assert (code, "is used up: 0.0 of 0.0 GPU-days; it only warns" in said) == (0, True)
        run_workers(api, "free", 1)
        assert cli.state("free") == "Running"


def test_a_hold_goes_with_its_job(
    api: Api, cli: Cli, keeping: Callable[[], contextlib.AbstractContextManager[Process]]
) -> None:
    make_budget(api, gpuDays=1)
    with keeping():
        wait_accounted(api)
        cli.out(*GIVEN, "--gpus", "1", "--deadline", "20h", "--name", "brief")
        (pod,) = run_workers(api, "brief", 1)
        time.sleep(1.1)  # its times are whole seconds
        hold = status(api)["holds"][0] | {"heldAt": "2026-01-01T00:00:00Z"}
        api.patch(BUDGET, "webvision", {"status": {"holds": [hold]}}, subresource="status")
        api.delete(PYTORCHJOB, "brief")
        end_pod(api, pod["metadata"]["name"])
        until(lambda: status(api)["holds"] == [], "nothing is held")
        assert status(api)["usedGPUMilliseconds"] > 0


def test_budgets_are_made_changed_and_shown(api: Api, cli: Cli) -> None:
    assert "nothing to set" in cli.fails(2, "budget", "set", "webvision")
    assert "no budget 'webvision'; there are: none" in cli.fails(3, "budget", "show", "webvision")
    made = ("budget", "set", "webvision", "--gpu-days", "500", "--until", "2027-06-01")
    assert cli.out(*made) == "webvision\n"
    code, out, said = cli("budget", "set", "webvision", "--mode", "hard", "--grace", "5m")
    assert (code, out) == (0, "webvision\n")
    assert "mode: safe -> hard" in said
    assert "graceSeconds: 600 -> 300" in said
    spec = api.get(BUDGET, "webvision")["spec"]
    assert (spec["gpuDays"], spec["period"]["until"]) == (500, "2027-06-01T00:00:00Z")
    assert "shrink needs mode: hard" in cli.fails(
        1, "budget", "set", "webvision", "--mode", "soft", "--on-exhaustion", "shrink"
    )
    accounted(api, used_ms=189 * DAY_MS)
    shown = json.loads(cli.out("budget", "show", "-o", "json"))["budgets"]
    assert [each["name"] for each in shown] == ["webvision"]
    assert "hard, suspend, grace 300 s" in cli.out("budget", "show", "webvision")
    assert cli.out("budget", "show", "-o", "name") == "budget.launcher.dev/webvision\n"


def test_time_is_kept_free_for_a_job_to_come(api: Api, cli: Cli) -> None:
    make_budget(api, gpuDays=10)
    accounted(api)
    kept = ("budget", "reserve", "webvision", "--job", "final")
    cli.out(*kept, "--gpus", "4", "--for", "2d")
    flags = (*GIVEN, "--gpus", "4", "--min-gpus", "4", "--deadline", "2d")
    assert "has 2.0 GPU-days left" in cli.fails(4, *flags, "--name", "other")
    cli.out(*flags, "--name", "final")
    assert [each["job"] for each in status(api)["holds"]] == ["final"]
    cli.out(*kept, "--release")
    assert "reserves nothing for a job 'final'" in cli.fails(3, *kept, "--release")


def test_what_is_given_back_is_given_back_once(
    api: Api,
    cli: Cli,
    keeping: Callable[[], contextlib.AbstractContextManager[Process]],
    tmp_path: Path,
) -> None:
    make_budget(api, gpuDays=10)
    given = ("budget", "refund", "webvision", "--gpu-days", "1.5", "--reason", "node lost", "--yes")
    first = cli.out(*given)
    code, again, said = cli(*given)
    assert (code, again, "is there already" in said) == (0, first, True)
    assert cli.out(*given, "--id", "another") == "another\n"
    with keeping():
        wait_accounted(api)
        until(lambda: status(api)["usedGPUMilliseconds"] == -3 * DAY_MS, "both are given back")
        assert {each.refund_id for each in stored(tmp_path / "ledger").refunds()} == {
            first.strip(), "another"
        }  # fmt: skip
    ledger_of = ("--ledger", str(tmp_path / "ledger"), "--cluster", CLUSTER)
    told = json.loads(cli.out("budget", "history", "webvision", *ledger_of, "-o", "json"))
    assert [each["gpu_ms"] for each in told["changes"]] == [-DAY_MS * 3 // 2] * 2
    assert "never at this rate" in cli.out("budget", "show", "webvision", *ledger_of)


def test_an_end_is_set_right(
    api: Api,
    cli: Cli,
    keeping: Callable[[], contextlib.AbstractContextManager[Process]],
    tmp_path: Path,
) -> None:
    make_budget(api, gpuDays=10)
    make_budget(api, "another", gpuDays=10)
    ledger_of = ("--ledger", str(tmp_path / "ledger"), "--cluster", CLUSTER)
    with keeping():
        wait_accounted(api)
        uid = make_pod(api, "p", 8)["metadata"]["uid"]
        until(lambda: api.get(POD, "p")["spec"].get("nodeName"), "a node")
        start_pod(api, "p")
        end_pod(api, "p")

        def known() -> Interval | None:
            found = stored(tmp_path / "ledger").of_pod(uid)
            return found if found is not None and found.is_closed else None

        before = until(known, "its end is stored")
        end = iso(before.start_ms // 1000 * 1000 + 3_600_000)
        words = ("--pod", uid, "--end", end, "--reason", "its log ends here", "--yes")
        assert "knows no such pod of budget another" in cli.fails(
            2, "budget", "correct", "another", *words, *ledger_of
        )
        cli.out("budget", "correct", "another", *words)
        made = cli.out("budget", "correct", "webvision", *words, *ledger_of)
        code, again, said = cli("budget", "correct", "webvision", *words)
        assert (code, again, "is there already" in said) == (0, made, True)
        wanted = 8 * (before.start_ms // 1000 * 1000 + 3_600_000 - before.start_ms)
        until(lambda: stored(tmp_path / "ledger").used("webvision") == wanted, "set right", 90)
        until(lambda: status(api)["usedGPUMilliseconds"] == wanted, "told")
    found = stored(tmp_path / "ledger").of_pod(uid)
    assert found is not None
    assert (found.source, found.revision) == ("correction", 1), "by its own budget alone, once"
    told = json.loads(cli.out("budget", "history", "webvision", *ledger_of, "-o", "json"))
    assert [each["what"] for each in told["changes"]] == [f"correction of {uid}"]


def _policy(api: Api, name: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(PYTORCHJOB, name)["spec"]["runPolicy"]
    return found


def _replicas(api: Api, name: str) -> int:
    return int(api.get(PYTORCHJOB, name)["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"])
