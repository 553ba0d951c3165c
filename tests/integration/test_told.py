"""An object's events from the middle of a list, on servers that take the token and that do not."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.cluster.client import Api
from launcher.cluster.told import events_of
from launcher.cluster.transport import connect
from launcher.errors import Forbidden
from tests.integration.scripted_server import ScriptedServer, Step, reply, scripted_server, status


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture
def api(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(tmp_path / "config")))
    transport = connect()
    yield Api(transport, patience_s=0)
    transport.client.rest_client.pool_manager.clear()


def page(*names: str, token: str = "") -> Step:
    items = [
        {"metadata": {"name": name}, "involvedObject": {"name": name.rpartition(".")[0]}}
        for name in names
    ]
    return reply(200, {"items": items, "metadata": {"continue": token}})


def told(api: Api) -> list[str]:
    return [event["metadata"]["name"] for event in events_of(api, "a")]


def test_the_first_page_begins_at_the_object(api: Api, server: ScriptedServer) -> None:
    server.script = [page("a.1", "a.2", "a.b.1", "a0.1", "b.1", token="next")]
    assert told(api) == ["a.1", "a.2"]
    (asked,) = server.asked
    token = asked.query["continue"]
    start = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    assert start == {"v": "meta.k8s.io/v1", "rv": -1, "start": "a."}
    assert "fieldSelector" not in asked.query


def test_further_pages_are_asked_for_while_they_are_the_objects(
    api: Api, server: ScriptedServer
) -> None:
    server.script = [page("a.1", "a.2", token="next"), page("a.3", "b.1", token="more")]
    assert told(api) == ["a.1", "a.2", "a.3"]
    assert server.asked[1].query["continue"] == "next"


@pytest.mark.parametrize("first", [(), ("b.1",)], ids=["at the end", "others only"])
def test_an_object_without_events(first: tuple[str, ...], api: Api, server: ScriptedServer) -> None:
    server.script = [page(*first)]
    assert told(api) == []
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        status(400, "BadRequest", "continue key is not valid: unknown version"),
        status(410, "Expired", "the provided continue parameter is too old"),
        page("0.1", "a.1", "b.1"),
    ],
    ids=["not valid", "expired", "begins elsewhere"],
)
def test_where_the_token_does_not_lead_there_all_are_looked_through(
    refusal: Step, api: Api, server: ScriptedServer
) -> None:
    server.script = [refusal, page("a.1", "odd")]
    assert told(api) == ["a.1", "odd"]
    assert server.asked[1].query["fieldSelector"] == "involvedObject.name=a"
    assert "continue" not in server.asked[1].query


def test_who_may_not_list_events_is_told_so_at_once(api: Api, server: ScriptedServer) -> None:
    server.script = [status(403, "Forbidden", "events is forbidden")]
    with pytest.raises(Forbidden, match=r"^events "):
        told(api)
    assert len(server.asked) == 1
