"""The controller's metrics on a real API server: exact, restored, and shown by the leader alone."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from launcher.budget.ledger import allotment_of
from launcher.cluster.client import Api
from launcher.cluster.kinds import POD
from launcher.controller.metric_table import LEDGER_TABLE, TABLE
from tests.cluster.budgeted import make_budget, namespace, wait_accounted
from tests.cluster.cli import Cli
from tests.cluster.control_plane import ControlPlane
from tests.cluster.controllers import controller, make_job, until
from tests.cluster.ledgers import CLUSTER, end_pod, make_pod, start_pod, stored
from tests.conftest import absent
from tests.servers import free_ports
from tools.dashboards.__main__ import FOLDER
from tools.dashboards.queries import Span, choose
from tools.dashboards.queries import run as run_panels
from tools.dashboards.server import Unavailable, program, prometheus, rules

ALLOCATED = "launcher_gpu_allocated_seconds_total"
Scrape = dict[str, dict[tuple[str, ...], float]]
"""By name, then by the values of the labels in the table's order."""


@pytest.fixture
def api(budgets: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("KUBECONFIG", str(budgets.kubeconfig))
    with namespace(budgets) as made:
        yield made


@pytest.fixture
def cli(
    budgets: ControlPlane, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Cli:  # fmt: skip
    return Cli(budgets, api.namespace, tmp_path, capsys, monkeypatch)


class Candidates:
    """Controllers of one namespace with one ledger."""

    def __init__(self, config: Path, api: Api, folder: Path) -> None:
        self._config, self._api, self._folder = config, api, folder

    @contextlib.contextmanager
    def start(self, identity: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        (port,) = free_ports(1)
        flags = ("--ledger", str(self._folder), "--cluster", CLUSTER, "--metrics-port", str(port))
        with controller(self._config, self._api.namespace, identity, *flags) as process:
            yield process.process, port


@pytest.fixture
def candidates(budgets: ControlPlane, api: Api, tmp_path: Path) -> Candidates:
    config = Path(shutil.copy(budgets.folder / "controller.yaml", tmp_path / "config"))
    return Candidates(config, api, tmp_path / "ledger")


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def scrape(port: int) -> Scrape:
    found: Scrape = {}
    for family in text_string_to_metric_families(page(port)):
        for sample in family.samples:
            labels = tuple(sample.labels[each] for each in TABLE[sample.name].labels)
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def wait_shown(port: int, name: str = ALLOCATED) -> Scrape:
    """The first scrape that has the metric."""

    def look() -> Scrape | None:
        try:
            found = scrape(port)
        except (urllib.error.URLError, ConnectionError):
            return None
        return found if name in found else None

    return until(look, f"{name} is shown")


def run(api: Api, name: str, gpus: int, **labels: str) -> None:
    """Makes a pod and waits until it has a node; says that it runs."""
    make_pod(api, name, gpus, **labels)
    until(lambda: api.get(POD, name)["spec"].get("nodeName"), f"{name} has a node")
    start_pod(api, name)


def total(found: Scrape, name: str = ALLOCATED) -> float:
    return sum(found.get(name, {}).values())


def test_what_is_shown_is_what_is_stored_and_prometheus_tools_take_it(
    api: Api, cli: Cli, candidates: Candidates, tmp_path: Path
) -> None:
    make_budget(api, gpuDays=0.5)
    until_2030 = {"every": "once", "until": "2030-01-01T00:00:00Z"}
    make_budget(api, "another", gpuDays=2, mode="soft", period=until_2030)
    with candidates.start("one") as (_, port):
        wait_accounted(api)
        job = make_job(api, "seen")
        for pod in job.pods():
            name = pod["metadata"]["name"]
            until(lambda name=name: api.get(POD, name)["spec"].get("nodeName"), f"{name}'s node")
        for number in range(3):
            run(api, f"p{number}", 8, **{"launcher.dev/model": "senet154"})
        for name in ("q", "r"):
            run(api, name, 2, **{"launcher.dev/budget": "another"})
        refused = cli.fails(
            4,
            "submit", "--model", "resnet18", "--image", "registry.example/trainer:1",
            "--data", "s3://webvision/train", "--checkpoints", "s3://webvision/runs",
            "--budget", "webvision", "--gpus", "64", "--deadline", "8d",
        )  # fmt: skip
        assert "GPU-days left" in refused
        for number in range(3):
            end_pod(api, f"p{number}")

        def look() -> Scrape | None:
            ledger, found = stored(tmp_path / "ledger"), scrape(port)
            is_over = sum(each.is_closed for each in ledger.intervals()) == 3
            used = found.get("launcher_gpu_budget_used_seconds", {})
            stands = used.get((CLUSTER, "webvision")) == ledger.used("webvision") / 1000
            shown = {key: round(value * 1000) for key, value in found.get(ALLOCATED, {}).items()}
            is_same = shown == ledger.counted(allotment_of)
            told = found.get("launcher_gpu_budget_refused_total")
            return found if is_over and stands and is_same and told else None

        found = until(look, "all ends are stored, and what is stored is shown")
        budget = (CLUSTER, "webvision")
        assert found["launcher_gpu_budget_limit_seconds"][budget] == 0.5 * 86_400
        used = found["launcher_gpu_budget_used_seconds"][budget]
        reserved = found["launcher_gpu_budget_reserved_seconds"][budget]
        assert found["launcher_gpu_budget_remaining_seconds"][budget] == pytest.approx(
            0.5 * 86_400 - used - reserved
        )
        assert found["launcher_gpu_budget_enforced"] == {budget: 1, (CLUSTER, "another"): 0}
        assert found["launcher_gpu_budget_refused_total"] == {(*budget, "OverBudget"): 1}
        held = {(CLUSTER, "another", ""): 4, (CLUSTER, "", "train"): 3}
        assert found["launcher_gpus_allocated"] == held
        assert found["launcher_ledger_open_intervals"] == {(CLUSTER,): 5}
        exhausted = found["launcher_gpu_budget_projected_exhaustion_timestamp_seconds"]
        assert set(exhausted) == {(CLUSTER, "another")}, "the others have no GPUs now"
        (about,) = found["launcher_job_info"]
        assert (about[0], about[2], about[3]) == (CLUSTER, job.name, api.namespace)
        check(page(port))
        look_at_dashboard(tmp_path, port, lambda: end_pod(api, "q"))


def look_at_dashboard(folder: Path, port: int, happen: Callable[[], None]) -> None:
    """Every query of the dashboards that asks for the controller's series alone gives some.

    happen: something that moves a counter.
    """
    (own_port,) = free_ports(1)
    documents = [json.loads((FOLDER / f"{uid}.json").read_text()) for uid in BOARDS]
    recorded = rules(folder / "rules", 2.0)
    answers = []
    try:
        with prometheus(
            folder / "prometheus",
            own_port,
            targets={"controller": f"127.0.0.1:{port}"},
            rule_files=recorded,
            every_s=1.0,
        ) as server:
            time.sleep(WATCHED_S / 2)
            happen()
            time.sleep(WATCHED_S / 2)
            span = Span(time.time() - WATCHED_S, time.time(), 1.0)
            for document in documents:
                answers += run_panels(server, document, span, choose(server, document, span))
    except Unavailable as error:
        absent(str(error))
    assert [f"{each.where}: {each.error}" for each in answers if each.error] == []
    own = [each for each in answers if not re.search(r"trainer_|kube_|kueue_|DCGM_", each.expr)]
    empty = {each.panel["title"] for each in own if not each.series}
    assert empty == NOT_HERE, empty
    assert len(own) > 25


BOARDS = ("launcher-gpu-budget", "launcher-fleet")
WATCHED_S = 20.0
NO_TRAINER = {"Waste by cause", "Goodput and refunds", "Worst goodput"}
NO_KUBE_STATE_METRICS = {
    *("Top 10 jobs", "Ledger and cluster apart by", "Held by jobs", "Idle", "Idle GPUs by job"),
    *("By node", "Who holds what"),
}
NOT_HERE = NO_TRAINER | NO_KUBE_STATE_METRICS
"""Panels of series that neither this controller nor its records can have."""


def check(text: str) -> None:
    """`promtool check metrics` has nothing to say against a scrape."""
    try:
        command = [program("promtool"), "check", "metrics"]
    except Unavailable as error:
        absent(str(error))
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_counters_do_not_fall_when_a_leader_is_killed_and_another_goes_on(
    api: Api, candidates: Candidates
) -> None:
    make_budget(api, gpuDays=5)
    with candidates.start("one") as (first, first_port):
        wait_accounted(api)
        run(api, "p", 8)
        before = until(
            lambda: found if total(found := wait_shown(first_port)) else None,
            "time of the pod is shown",
            90,
        )
        with candidates.start("two") as (second, second_port):
            standing_by = wait_shown(second_port, "launcher_controller_leading")
            assert standing_by["launcher_controller_leading"] == {(): 0}
            assert not set(standing_by) & set(LEDGER_TABLE)
            first.send_signal(signal.SIGKILL)
            first.wait(10)
            after = wait_shown(second_port)
            assert total(after) >= total(before)
            second.send_signal(signal.SIGKILL)
            second.wait(10)
        with candidates.start("three") as (_, third_port):
            again = wait_shown(third_port)
            assert total(again) >= total(after)
            shown = until(
                lambda: "launcher_gpu_budget_used_seconds" in scrape(third_port),
                "budgets are shown",
            )
            assert shown
            end_pod(api, "p")
            until(lambda: not scrape(third_port).get("launcher_gpus_allocated"), "the pod's end")
            assert total(scrape(third_port)) >= total(again)


def test_without_a_ledger_only_the_controller_is_told_of(
    budgets: ControlPlane, api: Api, tmp_path: Path
) -> None:
    config = Path(shutil.copy(budgets.folder / "controller.yaml", tmp_path / "config"))
    (port,) = free_ports(1)
    with controller(config, api.namespace, "one", "--metrics-port", str(port)):
        found = wait_shown(port, "launcher_build_info")
        assert set(found) <= set(TABLE) - set(LEDGER_TABLE)
        check(page(port))
