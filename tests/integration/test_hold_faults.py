"""Holding GPU time under the faults of a network: once, whatever answers are lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from launcher.budget.budgets import Hold
from launcher.budget.objects import iso, with_hold
from launcher.cluster.admission import TRIES, Applicant, hold
from launcher.cluster.client import Api
from launcher.cluster.transport import connect
from launcher.errors import Conflict
from tests.integration.scripted_server import (
    ScriptedServer,
    Step,
    reply,
    reset,
    scripted_server,
    status,
)

JOB = Applicant("webvision", "u-1", "ml", "a", gpus_per_worker=8, workers=(4,), deadline_s=3600)
MINE = Hold("u-1", "ml", "a", 32, 32 * 3_600_000)
OTHERS = Hold("u-2", "ml", "b", 8, 8 * 3_600_000)
CHANGED = status(409, "Conflict", "the object has been modified")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture
def api(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(tmp_path / "config")))
    return Api(connect(), timeout_s=5, patience_s=2, sleep=lambda _: None)


def budget(version: int, *holds: Hold) -> dict[str, Any]:
    """An accounted budget that is written at this moment."""
    now_ms = round(time.time() * 1000)
    told = {
        "type": "Accounted", "status": "True", "reason": "Ledger", "message": "",
        "lastTransitionTime": iso(now_ms),
    }  # fmt: skip
    metadata = {"name": "webvision", "resourceVersion": str(version), "creationTimestamp": iso(0)}
    thing: dict[str, Any] = {
        "metadata": metadata,
        "spec": {"gpuDays": 10},
        "status": {"asOf": iso(now_ms), "conditions": [told]},
    }
    for each in holds:
        thing = with_hold(thing, each, now_ms)
    return thing


def found(version: int, *holds: Hold) -> Step:
    date = {"Date": formatdate(usegmt=True)}
    return reply(200, budget(version, *holds), date)


def held(server: ScriptedServer) -> list[tuple[str, str, int]]:
    """Version, job and GPU-milliseconds of each hold in the last write."""
    body = server.asked[-1].body
    version = body["metadata"]["resourceVersion"]
    return [(version, each["job"], each["gpuMilliseconds"]) for each in body["status"]["holds"]]


def test_a_hold_whose_answer_was_lost_is_found_and_not_held_twice(
    server: ScriptedServer, api: Api
) -> None:
    # The write is done, its answer lost; its repetition is refused, since the version is gone.
    server.script = [found(1), reset, CHANGED, found(2, MINE), found(3, MINE)]
    assert hold(api, JOB, print) == 4
    assert [each.method for each in server.asked] == ["GET", "PATCH", "PATCH", "GET", "PATCH"]
    assert held(server) == [("2", "a", 32 * 3_600_000)]


def test_a_hold_of_another_that_came_first_is_kept_and_counted(
    server: ScriptedServer, api: Api
) -> None:
    server.script = [found(1), CHANGED, found(2, OTHERS), found(3, OTHERS, MINE)]
    assert hold(api, JOB, print) == 4
    assert [name for _, name, _ in held(server)] == ["b", "a"]


def test_a_budget_that_changes_each_time_is_told_of(server: ScriptedServer, api: Api) -> None:
    server.script = [step for _ in range(TRIES) for step in (found(1), CHANGED)]
    with pytest.raises(Conflict, match="try again"):
        hold(api, JOB, print)
