"""The events of one object among many on the real API server, whose tokens nobody documents."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from launcher.cluster import told
from launcher.cluster.client import Api
from launcher.cluster.transport import connect
from tests.cluster.control_plane import ControlPlane

MANY = told.PAGE + 20
"""More than a page."""
OBJECTS = {"a": MANY, "a-worker-0": 3, "a-worker-1": 1, "a.b": 2, "a0": 2, "b": 5}
"""And how often something was told of each."""


@pytest.fixture
def api(plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    return Api(connect(), namespace)


def event(name: str, number: int, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{number:016x}"},
        "involvedObject": {"kind": "Pod", "name": name, "namespace": namespace},
        "reason": "Scheduled",
        "message": str(number),
        "type": "Normal",
    }


def names(events: list[dict[str, Any]]) -> list[str]:
    return [each["metadata"]["name"] for each in events]


def test_both_ways_find_the_same(api: Api) -> None:
    made = [event(name, n, api.namespace) for name, often in OBJECTS.items() for n in range(often)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(api.create, made))
    for name, often in OBJECTS.items():
        near = told.events_of(api, name)
        assert names(near) == names(told.all_events_of(api, name))
        assert len(near) == often
    assert told.events_of(api, "a-worker-2") == []
    assert told.events_of(api, "z") == []


def test_the_server_takes_the_token(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the answer is right too, but late."""
    api.create(event("a", 1, api.namespace))
    api.create(event("b", 1, api.namespace))

    def look_through(*_: object) -> list[dict[str, Any]]:
        raise AssertionError("all events are looked through")

    monkeypatch.setattr(told, "all_events_of", look_through)
    assert names(told.events_of(api, "b")) == [f"b.{1:016x}"]
