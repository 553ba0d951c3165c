"""The definition of Budget on a real API server: what it takes, fills in, refuses and shows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from tests.cluster.tools import ROOT

CRD = ROOT / "k8s/crds/budgets.launcher.dev.yaml"


@pytest.fixture(scope="module")
def budgets(plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with the definition, for as long as it is wanted."""
    plane.kubectl("apply", "--server-side", "-f", str(CRD))
    plane.kubectl(
        "wait", "--for=condition=Established", "crd/budgets.launcher.dev", "--timeout=60s"
    )
    yield plane
    plane.kubectl("delete", "crd", "budgets.launcher.dev")


@pytest.fixture(autouse=True)
def _no_budget_is_left(budgets: ControlPlane) -> Iterator[None]:
    yield
    budgets.kubectl("delete", "budgets.launcher.dev", "--all")


def budget(name: str = "webvision", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name}
    return {
        "apiVersion": "launcher.dev/v1alpha1",
        "kind": "Budget",
        "metadata": metadata,
        "spec": {"gpuDays": 500} | spec,
    }


def created(plane: ControlPlane, thing: dict[str, Any]) -> dict[str, Any]:
    plane.kubectl("create", "-f", "-", given=json.dumps(thing))
    found: dict[str, Any] = json.loads(
        plane.kubectl("get", "budgets.launcher.dev", thing["metadata"]["name"], "-o", "json")
    )
    return found


def test_what_is_left_out_is_filled_in(budgets: ControlPlane) -> None:
    assert created(budgets, budget())["spec"] == {
        "gpuDays": 500,
        "mode": "safe",
        "onExhaustion": "suspend",
        "graceSeconds": 600,
        "period": {"every": "once"},
    }


@pytest.mark.parametrize(
    "spec",
    [
        {"gpuDays": 0.5, "mode": "soft"},
        {"mode": "hard", "onExhaustion": "shrink", "graceSeconds": 60},
        {"period": {"every": "quarter", "from": "2026-01-01T00:00:00Z"}},
        {"period": {"from": "2026-01-01T00:00:00Z", "until": "2026-06-01T00:00:00Z"}},
        {"period": {"until": "2026-06-01T00:00:00+02:00"}, "namespaces": ["ml", "vision"]},
    ],
)
def test_budgets_that_are_taken(budgets: ControlPlane, spec: dict[str, Any]) -> None:
    kept = created(budgets, budget(**spec))["spec"]
    assert {key: kept[key] for key in spec if key != "period"} == {
        key: value for key, value in spec.items() if key != "period"
    }
    assert spec.get("period", {}).items() <= kept["period"].items()


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (budget(gpuDays=-1), "should be greater than or equal to 0"),
        (budget(gpuDays="many"), "must be of type number"),
        (budget(mode="strict"), 'supported values: "safe", "hard", "soft"'),
        (budget(onExhaustion="shrink"), "onExhaustion: shrink needs mode: hard"),
        (budget(graceSeconds=1), "should be greater than or equal to 30"),
        (budget(colour="red"), 'unknown field "spec.colour"'),
        (budget(period={"every": "month"}), "a budget that begins anew needs from"),
        (
            budget(period={"from": "2026-06-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}),
            "until must be after from",
        ),
        (budget(period={"from": "tomorrow"}), "must be of type date-time"),
        (budget(name="a.b"), "a budget's name becomes a label"),
        (budget(name="a" * 64), "a budget's name becomes a label"),
        ({**budget(), "spec": {}}, "spec.gpuDays: Required value"),
    ],
)
def test_budgets_that_are_refused(budgets: ControlPlane, thing: dict[str, Any], words: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        budgets.kubectl("create", "--validate=strict", "-f", "-", given=json.dumps(thing))
    assert words in str(error.value.stderr)


REFUND = {
    "id": "r", "gpuDays": 1.5, "reason": "node lost", "author": "ada", "at": "2026-01-02T00:00:00Z",
}  # fmt: skip
CORRECTION = {
    "id": "c", "podUID": "u-1", "end": "2026-01-01T12:00:00Z", "reason": "its log ends here",
    "author": "ada", "at": "2026-01-02T00:00:00Z",
}  # fmt: skip
RESERVATION = {"job": "final", "gpuDays": 128, "until": "2026-06-01T00:00:00Z"}


def change(plane: ControlPlane, **spec: Any) -> str:
    """What the API server says against a change of the budget; empty where it takes it."""
    words = ("patch", "budgets.launcher.dev", "webvision", "--type=merge")
    try:
        plane.kubectl(*words, "-p", json.dumps({"spec": spec}))
    except subprocess.CalledProcessError as error:
        return str(error.stderr)
    return ""


def test_what_was_asked_for_stays_and_more_may_be_asked_for(budgets: ControlPlane) -> None:
    spec = {"refunds": [REFUND], "corrections": [CORRECTION], "reservations": [RESERVATION]}
    kept = created(budgets, budget(**spec))["spec"]
    assert {key: kept[key] for key in spec} == spec
    assert "a refund stays as it was" in change(budgets, refunds=[REFUND | {"gpuDays": 2}])
    assert "a correction stays as" in change(
        budgets, corrections=[CORRECTION | {"end": "2026-01-01T13:00:00Z"}]
    )
    assert not change(budgets, refunds=[REFUND, REFUND | {"id": "r2", "gpuDays": -1.5}])
    assert not change(budgets, corrections=[CORRECTION, CORRECTION | {"id": "c2"}])
    assert not change(budgets, reservations=[RESERVATION | {"gpuDays": 64}])
    assert "Duplicate value" in change(budgets, reservations=[RESERVATION, RESERVATION])
    without = {key: value for key, value in CORRECTION.items() if key != "author"}
    assert "author: Required value" in change(budgets, corrections=[without | {"id": "c3"}])


def test_the_status_is_written_apart_and_shown(budgets: ControlPlane) -> None:
    created(budgets, budget())
    hold = {
        "jobUID": "u-1", "namespace": "ml", "job": "a", "gpus": 64,
        "gpuMilliseconds": 64 * 8 * 86_400_000, "heldAt": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    status = {
        "gpuDays": {"used": 1.5, "reserved": 128.0, "remaining": 370.5},
        "period": {"from": "2026-01-01T00:00:00Z"},
        "holds": [hold],
        "refusals": [{"reason": "OverBudget", "count": 3}],
    }
    change = json.dumps({"spec": {"gpuDays": 7}, "status": status})
    flags = ("budgets.launcher.dev", "webvision", "--type=merge", "-p", change)
    budgets.kubectl("patch", *flags, "--subresource=status")
    found = json.loads(budgets.kubectl("get", "budgets.launcher.dev", "webvision", "-o", "json"))
    assert found["spec"]["gpuDays"] == 500, "the status alone"
    assert found["status"] == status
    shown = budgets.kubectl("get", "budgets.launcher.dev").splitlines()
    assert shown[0].split() == ["NAME", "LIMIT", "USED", "RESERVED", "LEFT", "MODE", "UNTIL", "AGE"]
    assert shown[1].split()[:6] == ["webvision", "500", "1.5", "128", "370.5", "safe"]


def test_two_holds_of_one_job_cannot_be(budgets: ControlPlane) -> None:
    created(budgets, budget())
    hold = {
        "jobUID": "u-1", "namespace": "ml", "job": "a", "gpus": 1,
        "gpuMilliseconds": 1, "heldAt": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    change = json.dumps({"status": {"holds": [hold, hold]}})
    flags = ("budgets.launcher.dev", "webvision", "--type=merge", "-p", change)
    with pytest.raises(subprocess.CalledProcessError) as error:
        budgets.kubectl("patch", *flags, "--subresource=status")
    assert "Duplicate value" in str(error.value.stderr)


def test_it_is_installed_with_the_rest() -> None:
    listed = yaml.safe_load((ROOT / "k8s/crds/kustomization.yaml").read_text())["resources"]
    assert listed == [path.name for path in sorted((ROOT / "k8s/crds").glob("*.dev.yaml"))]
    assert "crds" in str(yaml.safe_load((ROOT / "k8s/base/kustomization.yaml").read_text()))
