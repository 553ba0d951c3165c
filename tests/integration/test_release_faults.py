"""Letting a pod go under the faults of a network: its finalizer is off once, and only its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.budget.pods import FINALIZER
from launcher.cluster.client import Api
from launcher.cluster.kinds import Object
from launcher.cluster.ledger import TRIES, holds_pods, release
from launcher.cluster.transport import connect
from launcher.controller.finalizers import AT_ONCE, Pods
from tests.integration.scripted_server import ScriptedServer, reply, reset, scripted_server, status

OTHER = "other.test/x"
CHANGED = status(422, "Invalid", "the server rejected our request: testing value failed")


def pod(*finalizers: str, uid: str = "u", name: str = "p") -> Object:
    metadata = {"name": name, "namespace": "ml", "uid": uid, "finalizers": list(finalizers)}
    return {"metadata": metadata}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture
def api(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(tmp_path / "config")))
    return Api(connect(), timeout_s=5, patience_s=2, sleep=lambda _: None)


def test_only_this_pod_and_this_finalizer_are_meant(server: ScriptedServer, api: Api) -> None:
    server.script = [reply(200, pod(OTHER))]
    assert release(api, pod(OTHER, FINALIZER))
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("PATCH", "/api/v1/namespaces/ml/pods/p")
    assert asked.body == [
        {"op": "test", "path": "/metadata/uid", "value": "u"},
        {"op": "test", "path": "/metadata/finalizers/1", "value": FINALIZER},
        {"op": "remove", "path": "/metadata/finalizers/1"},
    ]


def test_a_lost_answer_is_asked_for_again_and_found_done(server: ScriptedServer, api: Api) -> None:
    server.script = [reset, CHANGED, reply(200, pod(OTHER))]
    assert release(api, pod(OTHER, FINALIZER))
    assert [each.method for each in server.asked] == ["PATCH", "PATCH", "GET"]


def test_a_finalizer_that_has_moved_is_found_again(server: ScriptedServer, api: Api) -> None:
    server.script = [CHANGED, reply(200, pod(FINALIZER)), reply(200, pod())]
    assert release(api, pod(OTHER, FINALIZER))
    assert server.asked[-1].body[-1] == {"op": "remove", "path": "/metadata/finalizers/0"}


@pytest.mark.parametrize(
    "found", [reply(200, pod(FINALIZER, uid="another")), status(404, "NotFound")]
)
def test_another_pod_of_the_name_is_left_alone(
    server: ScriptedServer, api: Api, found: object
) -> None:
    server.script = [CHANGED, found]  # type: ignore[list-item]
    assert release(api, pod(FINALIZER))
    assert [each.method for each in server.asked] == ["PATCH", "GET"]


def test_one_that_moves_each_time_is_left_for_later(server: ScriptedServer, api: Api) -> None:
    server.script = [CHANGED, reply(200, pod(OTHER, FINALIZER))] * TRIES
    assert not release(api, pod(FINALIZER))


def test_a_server_that_is_away_is_not_waited_for_by_every_pod(
    server: ScriptedServer, api: Api
) -> None:
    away = status(403, "Forbidden", "not yet")
    server.script = [away] * 50
    pods = [pod(FINALIZER, uid=str(number), name=f"p{number}") for number in range(50)]
    assert Pods(api, [""]).release(pods) == set()
    assert len(server.asked) <= 2 * AT_ONCE


def test_without_the_right_to_see_a_budget_no_pod_is_held(server: ScriptedServer, api: Api) -> None:
    server.script = [status(403, "Forbidden", "budgets is forbidden")]
    assert not holds_pods(api, "webvision")
