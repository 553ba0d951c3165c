"""Recording and alert rules on the real promtool, Prometheus and Alertmanager."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import absent
from tests.servers import free_ports
from tools.dashboards.server import (
    RULES,
    Unavailable,
    alertmanager,
    program,
    prometheus,
    rules,
    served,
)

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests/promtool"
EXAMPLE = ROOT / "charts/launcher/examples/alertmanager.yaml"
PAGE = ROOT / "docs/alerts.md"


def called(name: str, *arguments: object) -> None:
    """Runs one of Prometheus' tools; it has to succeed."""
    try:
        command = [program(name), *map(str, arguments)]
    except Unavailable as error:
        absent(str(error))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def all_rules() -> list[dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yaml"))]
    return [rule for document in documents for group in document["groups"]
            for rule in group["rules"]]  # fmt: skip


ALERTS = {rule["alert"]: rule for rule in all_rules() if "alert" in rule}
RECORDS = {rule["record"]: rule for rule in all_rules() if "record" in rule}


def cases() -> list[dict[str, Any]]:
    """Every case of every test file."""
    documents = [yaml.safe_load(path.read_text()) for path in sorted(TESTS.glob("*.yaml"))]
    return [case for document in documents for case in document["tests"]]


def test_promtool_takes_the_rules() -> None:
    called("promtool", "check", "rules", *sorted(RULES.glob("*.yaml")))


@pytest.mark.parametrize("path", sorted(TESTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    groups = {
        group["name"]
        for file in RULES.glob("*.yaml")
        for group in yaml.safe_load(file.read_text())["groups"]
    }
    # Without an order alerts see series of other groups one minute old, in some runs.
    assert set(yaml.safe_load(path.read_text())["group_eval_order"]) == groups
    called("promtool", "test", "rules", path)


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_seen_firing_and_not_firing(name: str) -> None:
    seen = {
        bool(each["exp_alerts"])
        for case in cases()
        for each in case.get("alert_rule_test", ())
        if each["alertname"] == name
    }
    assert seen == {True, False}


@pytest.mark.parametrize("name", RECORDS)
def test_every_recorded_series_is_seen_with_its_value(name: str) -> None:
    assert any(
        name in each["expr"] and each["exp_samples"]
        for case in cases()
        for each in case.get("promql_expr_test", ())
    )


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
    section = PAGE.read_text().partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    for part in ("**Means**", "**Look at**", "**Do**"):
        assert part in section


def test_the_page_has_no_alert_that_is_gone() -> None:
    headings = {line[4:] for line in PAGE.read_text().splitlines() if line.startswith("### ")}
    assert headings == set(ALERTS)


def test_alertmanager_takes_the_example() -> None:
    called("amtool", "check-config", EXAMPLE)


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (("severity=critical", "budget=webvision"), "team-webvision,on-call"),
        (("severity=critical", "budget=other"), "on-call"),
        (("severity=warning",), "operators"),
        (("severity=info", "budget=webvision"), "team-webvision,digest"),
    ],
)
def test_the_example_tells_by_severity_and_budget(labels: tuple[str, ...], receivers: str) -> None:
    called("amtool", "config", "routes", "test", f"--config.file={EXAMPLE}",
           f"--verify.receivers={receivers}", *labels)  # fmt: skip


def test_what_the_example_inhibits_exists() -> None:
    text = EXAMPLE.read_text()
    named = {word for word in text.replace('"', " ").split() if word.startswith("Launcher")}
    for word in named:
        prefix = word.partition("(")[0].partition("|")[0].removesuffix(".*")
        assert any(name.startswith(prefix) for name in ALERTS), word


# -- an alert on its way


BUDGET = '{cluster="default",budget="webvision"}'
USED = f"""\
launcher_gpu_budget_limit_seconds{BUDGET} 100000
launcher_gpu_budget_used_seconds{BUDGET} 100001
launcher_gpu_budget_reserved_seconds{BUDGET} 0
"""


def here(port: int, folder: Path) -> Path:
    """The example with its receivers on this machine, and without its waits."""
    document = yaml.safe_load(EXAMPLE.read_text())
    for receiver in document["receivers"]:
        for webhook in receiver["webhook_configs"]:
            path = webhook["url"].partition("example.invalid")[2]
            webhook["url"] = f"http://127.0.0.1:{port}{path}"
    for route in (document["route"], *document["route"]["routes"]):
        route |= {"group_wait": "500ms", "group_interval": "1s"}
    path = folder / "alertmanager.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_an_alert_arrives_at_the_team_and_whoever_is_on_call(tmp_path: Path) -> None:
    told: dict[str, list[dict[str, Any]]] = {}

    def post(path: str, body: bytes) -> None:
        told[path] = json.loads(body)["alerts"]

    ports = free_ports(2)
    try:
        with (
            served(lambda: USED, post) as port,
            alertmanager(tmp_path / "am", ports[0], here(port, tmp_path)) as manager,
            prometheus(
                tmp_path / "prom",
                ports[1],
                targets={"controller": f"127.0.0.1:{port}"},
                rule_files=rules(tmp_path / "rules", 1.0),
                alertmanager=manager,
            ),
        ):
            ends_at = time.monotonic() + 45
            wanted = {"/team-webvision", "/on-call"}
            while time.monotonic() < ends_at and not wanted <= set(told):
                time.sleep(0.2)
    except Unavailable as error:
        absent(str(error))
    assert wanted <= set(told)
    (alert,) = told["/on-call"]
    assert alert["labels"]["alertname"] == "LauncherGpuBudgetExhausted"
    assert alert["labels"]["budget"] == "webvision"
    assert alert["annotations"]["summary"] == "GPU budget webvision is exhausted (100%)"
