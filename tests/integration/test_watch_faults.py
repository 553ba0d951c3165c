"""A watch over connections that end, break, fall silent or are forgotten: nothing is told twice."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster.client import Api
from launcher.cluster.kinds import POD
from launcher.cluster.transport import connect
from launcher.cluster.watch import Change, Watch, settled
from launcher.errors import Forbidden, LauncherError, NotFound
from tests.integration.scripted_server import (
    ScriptedServer,
    Step,
    hang,
    reply,
    reset,
    scripted_server,
    status,
    stream,
)

PATIENT_S = 20.0


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


class Listener:
    """A watch and what it has told, in order: "ADDED a 1", "listed", or an error."""

    def __init__(self, api: Api, silence_s: float) -> None:
        self.told: queue.Queue[str] = queue.Queue()
        self.watch = Watch(api, POD, self.tell, self.fail, labels="x=y", silence_s=silence_s)

    def tell(self, change: Change | None) -> None:
        if change is None:
            self.told.put("listed")
            return
        metadata = change.object["metadata"]
        self.told.put(f"{change.type} {metadata['name']} {metadata['resourceVersion']}")

    def fail(self, error: LauncherError) -> None:
        self.told.put(type(error).__name__)

    def next(self, count: int) -> list[str]:
        return [self.told.get(timeout=PATIENT_S) for _ in range(count)]


@pytest.fixture
def api(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(tmp_path / "config")))
    transport = connect()
    yield Api(transport, timeout_s=5, patience_s=0.01)
    transport.client.rest_client.pool_manager.clear()


@pytest.fixture
def listener(api: Api) -> Iterator[Listener]:
    made = Listener(api, silence_s=10)
    yield made
    made.watch.stop()
    assert not made.watch.is_alive()


def pod(name: str, version: int, uid: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid or name, "resourceVersion": str(version)}}


def pods(version: int, *items: dict[str, Any]) -> Step:
    return reply(200, {"items": list(items), "metadata": {"resourceVersion": str(version)}})


def event(type: str, name: str, version: int) -> dict[str, Any]:
    return {"type": type, "object": pod(name, version)}


def bookmark(version: int) -> dict[str, Any]:
    thing = {"kind": "Pod", "metadata": {"resourceVersion": str(version)}}
    return {"type": "BOOKMARK", "object": thing}


def error_event(code: int) -> dict[str, Any]:
    reason = "Expired" if code == 410 else "InternalError"
    told = {"kind": "Status", "code": code, "reason": reason, "message": "too old"}
    return {"type": "ERROR", "object": told}


def watched_from(server: ScriptedServer) -> list[str]:
    """The versions that watches were asked to go on from."""
    return [asked.query["resourceVersion"] for asked in server.asked if "watch" in asked.query]


def test_what_is_asked_for(server: ScriptedServer, listener: Listener) -> None:
    server.script = [pods(5, pod("a", 3)), stream(event("MODIFIED", "a", 6), end=hang(server))]
    listener.watch.start()
    assert listener.next(3) == ["ADDED a 3", "listed", "MODIFIED a 6"]
    listed, watched = server.asked
    assert listed.path == watched.path == "/api/v1/namespaces/ml/pods"
    assert listed.query == {"labelSelector": "x=y", "limit": "500"}
    assert watched.query == {
        "watch": "true",
        "resourceVersion": "5",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "240",
        "labelSelector": "x=y",
    }


END = stream(event("ADDED", "b", 7))
CUT = stream(event("ADDED", "b", 7), cut=b'{"type": "ADDED", "obj', end=reset)
ENDED_IN_LINE = stream(event("ADDED", "b", 7), cut=b'{"type": "ADDED", "obj')
RESET = stream(event("ADDED", "b", 7), end=reset)
NO_EVENT = stream(event("ADDED", "b", 7), {"kind": "PodList", "items": []})
FAILED = stream(event("ADDED", "b", 7), error_event(500))


@pytest.mark.parametrize(
    "broken", [END, CUT, ENDED_IN_LINE, RESET, NO_EVENT, FAILED],
    ids=["ends", "cut in a line", "ends in a line", "reset", "no event", "error 500"],
)  # fmt: skip
def test_a_watch_that_ends_goes_on_from_the_last_event(
    broken: Step, server: ScriptedServer, listener: Listener
) -> None:
    go_on = stream(event("DELETED", "b", 8), end=hang(server))
    server.script = [pods(5, pod("a", 3)), broken, go_on]
    listener.watch.start()
    assert listener.next(4) == ["ADDED a 3", "listed", "ADDED b 7", "DELETED b 8"]
    assert watched_from(server) == ["5", "7"]
    assert listener.watch.lists == 1
    assert listener.told.empty()


def test_a_silent_watch_is_tried_anew(api: Api, server: ScriptedServer) -> None:
    listener = Listener(api, silence_s=0.3)
    server.script = [
        pods(5),
        stream(event("ADDED", "b", 7), end=hang(server)),
        stream(event("MODIFIED", "b", 8), end=hang(server)),
    ]
    listener.watch.start()
    assert listener.next(3) == ["listed", "ADDED b 7", "MODIFIED b 8"]
    listener.watch.stop()
    assert watched_from(server)[:2] == ["5", "7"]


def test_bookmarks_move_the_version_on(server: ScriptedServer, listener: Listener) -> None:
    server.script = [
        pods(5),
        stream(bookmark(90)),
        stream(event("ADDED", "b", 91), end=hang(server)),
    ]
    listener.watch.start()
    assert listener.next(2) == ["listed", "ADDED b 91"]
    assert watched_from(server) == ["5", "90"]


@pytest.mark.parametrize(
    "forgotten", [status(410, "Expired", "too old"), stream(error_event(410))],
    ids=["HTTP 410", "event 410"],
)  # fmt: skip
def test_a_forgotten_version_lists_again_and_tells_the_difference(
    forgotten: Step, server: ScriptedServer, listener: Listener
) -> None:
    server.script = [
        pods(5, pod("same", 1), pod("changed", 2), pod("gone", 3), pod("replaced", 4, "r1")),
        forgotten,
        pods(9, pod("same", 1), pod("changed", 8), pod("new", 7), pod("replaced", 6, "r2")),
        stream(event("ADDED", "later", 10), end=hang(server)),
    ]
    listener.watch.start()
    assert len(listener.next(5)) == 5
    assert listener.next(7) == [
        "DELETED gone 3",
        "DELETED replaced 4",
        "MODIFIED changed 8",
        "ADDED new 7",
        "ADDED replaced 6",
        "listed",
        "ADDED later 10",
    ]
    assert watched_from(server) == ["5", "9"]
    assert listener.watch.lists == 2
    assert set(listener.watch.known) == {"same", "changed", "new", "later", "r2"}


@pytest.mark.parametrize("code", [429, 500, 503])
def test_failures_at_its_start_are_outlasted(
    code: int, server: ScriptedServer, listener: Listener
) -> None:
    server.script = [
        status(code, "Busy"),
        reset,
        pods(5),
        status(code, "Busy"),
        reset,
        reply(200, "<html>"),
        stream(event("ADDED", "b", 7), end=hang(server)),
    ]
    listener.watch.start()
    assert listener.next(2) == ["listed", "ADDED b 7"]
    assert watched_from(server) == ["5"] * 4


def test_a_server_that_ends_each_watch_at_once_is_not_asked_without_a_pause(
    server: ScriptedServer, listener: Listener
) -> None:
    server.script = [pods(5), *[stream()] * 50]
    listener.watch.start()
    listener.next(1)
    time.sleep(1.5)
    assert 2 <= len(watched_from(server)) <= 8


@pytest.mark.parametrize(
    ("refusal", "name"),
    [
        (status(403, "Forbidden"), "Forbidden"),
        (status(401, "Unauthorized"), "Forbidden"),
        (reply(404, "404 page not found\n"), "NotFound"),
    ],
)
@pytest.mark.parametrize("is_listed", [False, True])
def test_what_no_waiting_cures_ends_it(
    refusal: Step, name: str, is_listed: bool, server: ScriptedServer, listener: Listener
) -> None:
    server.script = [pods(5), refusal] if is_listed else [refusal]
    listener.watch.refused_s = 0
    listener.watch.start()
    assert listener.next(1 + is_listed)[-1] == name
    listener.watch.join(PATIENT_S)
    assert not listener.watch.is_alive()
    assert listener.told.empty()


def test_a_server_that_just_starts_may_refuse_for_a_while(
    server: ScriptedServer, listener: Listener
) -> None:
    refusals = [status(403, "Forbidden"), status(401, "Unauthorized"), reply(404, "not found")]
    go_on = stream(event("ADDED", "b", 7), end=hang(server))
    server.script = [pods(5), *refusals, go_on]
    listener.watch.start()
    assert listener.next(2) == ["listed", "ADDED b 7"]
    assert watched_from(server) == ["5"] * 4


def test_refusals_that_stay_end_it(server: ScriptedServer, listener: Listener) -> None:
    server.script = [pods(5), *[status(403, "Forbidden")] * 50]
    listener.watch.refused_s = 1
    started_at = time.monotonic()
    listener.watch.start()
    assert listener.next(2) == ["listed", "Forbidden"]
    assert time.monotonic() - started_at > 1


def test_stop_ends_a_watch_that_waits(server: ScriptedServer, listener: Listener) -> None:
    server.script = [pods(5), stream(event("ADDED", "b", 7), end=hang(server))]
    listener.watch.start()
    listener.next(2)
    started_at = time.monotonic()
    listener.watch.stop()
    assert time.monotonic() - started_at < 1
    assert not listener.watch.is_alive()
    assert listener.told.empty()


def test_stop_in_the_midst_of_events_tells_nothing_after(api: Api, server: ScriptedServer) -> None:
    told: list[str] = []
    first, stopped = threading.Event(), threading.Event()

    def tell(change: Change | None) -> None:
        if change is not None:
            told.append(change.object["metadata"]["name"])
            first.set()
            stopped.wait(0.2)  # stop() comes while this one is being told

    events = [event("ADDED", f"p{n}", 10 + n) for n in range(100)]
    server.script = [pods(5), stream(*events, end=hang(server))]
    watch = Watch(api, POD, tell, pytest.fail)
    watch.start()
    assert first.wait(PATIENT_S)
    watch.stop()
    count = len(told)
    stopped.set()
    time.sleep(0.2)
    assert told == ["p0"]
    assert len(told) == count


def test_stop_while_it_connects(api: Api, server: ScriptedServer) -> None:
    listener = Listener(api, silence_s=1.5)
    server.script = [pods(5), hang(server)]
    listener.watch.start()
    listener.next(1)
    while not watched_from(server):
        time.sleep(0.01)
    started_at = time.monotonic()
    listener.watch.stop()
    assert time.monotonic() - started_at < 4
    assert not listener.watch.is_alive()


def test_settled_gives_an_object_until_it_is_gone(api: Api, server: ScriptedServer) -> None:
    server.script = [
        pods(5, pod("a", 3)),
        stream(event("MODIFIED", "a", 6), event("DELETED", "a", 7), end=hang(server)),
    ]
    seen = [thing and thing["metadata"]["resourceVersion"] for thing in settled(api, POD, "a", 0.5)]
    assert seen == ["3", "6", None]
    assert server.asked[0].query["fieldSelector"] == "metadata.name=a"


def test_settled_tells_what_was_never_there(api: Api, server: ScriptedServer) -> None:
    server.script = [pods(5), stream(end=hang(server))]
    assert list(settled(api, POD, "a", 0.3)) == [None]


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [(status(403, "Forbidden"), Forbidden), (reply(404, "404 page not found"), NotFound)],
)
def test_settled_raises_what_no_waiting_cures(
    refusal: Step, kind: type[LauncherError], api: Api, server: ScriptedServer
) -> None:
    server.script = [refusal]
    with pytest.raises(kind):
        list(settled(api, POD, "a", PATIENT_S))
