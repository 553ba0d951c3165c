"""The controller's hands when answers are lost, somebody else was faster, or rights are missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster.client import Api
from launcher.cluster.kinds import Object
from launcher.cluster.transport import connect
from launcher.controller import events
from launcher.controller.act import JOB_TRACKING, Hands, NotLeading
from launcher.controller.actions import Decision, DeletePod
from launcher.controller.memory import Memory, write
from launcher.controller.view import View
from launcher.errors import Conflict
from tests.integration.scripted_server import (
    ScriptedServer,
    Step,
    reply,
    reset,
    scripted_server,
    status,
)
from tests.unit.launcher.controlled import job, pod, view

DONE = reply(200, {})
ABSENT = status(404, "NotFound", "no such event")
TAKEN = status(409, "Conflict", "the object has been modified")
ENDING = Decision(Memory(restarts=3), ended_reason="it burns")


class Acting:
    """Hands on a scripted server, and what they say they did."""

    def __init__(self, api: Api) -> None:
        self.is_leading = True
        self.done: list[str] = []
        self.hands = Hands(api, lambda: self.is_leading, self.done.append)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture
def api(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(tmp_path / "config")))
    transport = connect()
    yield Api(transport, timeout_s=5, patience_s=2)
    transport.client.rest_client.pool_manager.clear()


@pytest.fixture
def acting(api: Api) -> Acting:
    return Acting(api)


def asked(server: ScriptedServer) -> list[str]:
    """Method and last part of the address of each request."""
    return [f"{each.method} {each.path.rpartition('/')[2]}" for each in server.asked]


def test_the_end_is_one_request_that_names_the_version(
    acting: Acting, server: ScriptedServer
) -> None:
    server.script = [reply(200, job()), ABSENT, DONE]
    acting.hands.carry_out(view(), ENDING)
    change = server.asked[0].body
    assert change["metadata"]["resourceVersion"] == "1"
    assert change["spec"] == {"runPolicy": {"suspend": True}}
    notes = change["metadata"]["annotations"]
    assert notes["launcher.dev/ended"] == "Failed"
    assert notes["launcher.dev/ended-reason"] == "it burns"
    assert notes["launcher.dev/restarts"] == "3"
    assert acting.done == ["Ended"]
    told = server.asked[2].body
    assert (told["reason"], told["message"], told["count"]) == ("Ended", "it burns", 1)
    assert told["involvedObject"]["uid"] == "job-uid"


class Stored:
    """Answers a GET with the job as the lost PATCH before has made it."""

    def __init__(self, server: ScriptedServer, **other: str) -> None:
        self.server, self.other = server, other

    def __call__(self, connection: Any) -> None:
        found = job()
        found["metadata"]["annotations"] = self.server.asked[0].body["metadata"]["annotations"]
        found["metadata"]["annotations"] |= self.other
        reply(200, found)(connection)


def test_an_end_whose_answer_was_lost_is_told_all_the_same(
    acting: Acting, server: ScriptedServer
) -> None:
    server.script = [reset, TAKEN, Stored(server), ABSENT, DONE]
    acting.hands.carry_out(view(), ENDING)
    assert acting.done == ["Ended"]
    assert [text.split()[0] for text in asked(server)] == ["PATCH", "PATCH", "GET", "PATCH", "POST"]


@pytest.mark.parametrize("first", [reset, TAKEN], ids=["lost", "refused"])
def test_where_the_job_has_changed_nothing_more_is_done(
    first: Step, acting: Acting, server: ScriptedServer
) -> None:
    others = Stored(server, **{"launcher.dev/restarts": "4"})
    server.script = [first, *([TAKEN] if first is reset else []), others]
    decision = Decision(Memory(restarts=3), (DeletePod(pod(0), "Hanging", "x"),), "it burns")
    with pytest.raises(Conflict):
        acting.hands.carry_out(view(), decision)
    assert acting.done == []
    assert not [each for each in asked(server) if each.startswith("DELETE")]


def test_without_the_lease_nothing_is_asked(acting: Acting, server: ScriptedServer) -> None:
    acting.is_leading = False
    for decision in (ENDING, Decision(Memory(), (DeletePod(pod(0), "Hanging", "x"),))):
        with pytest.raises(NotLeading):
            acting.hands.carry_out(view(), decision)
    assert server.asked == []


def test_the_lease_is_looked_at_before_each_thing(acting: Acting, server: ScriptedServer) -> None:
    def lose(connection: Any) -> None:
        acting.is_leading = False
        DONE(connection)

    pods = [DeletePod(pod(index), "Hanging", "x") for index in (0, 1)]
    server.script = [lose, ABSENT, DONE]
    with pytest.raises(NotLeading):
        acting.hands.carry_out(view(), Decision(Memory(), tuple(pods)))
    assert asked(server)[0] == "DELETE a-worker-0"
    assert "DELETE a-worker-1" not in asked(server)


def test_what_is_remembered_already_is_not_written(acting: Acting, server: ScriptedServer) -> None:
    known = Memory(restarts=2, first_started_at="2026-01-01T00:00:00Z")
    of = job()
    of["metadata"]["annotations"] = write(known)
    assert acting.hands.carry_out(view(of), Decision(known)) is None
    assert server.asked == []


# -- pods


def lost(*, tracked: bool, **more: Any) -> tuple[View, Decision]:
    """A pod on a lost node that is to be forced; tracked: it is a Job's."""
    gone: Object = pod(0, deleted=True, **more)
    if tracked:
        gone["metadata"]["finalizers"] = [JOB_TRACKING]
        gone["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
    return view(None, gone), Decision(Memory(), (DeletePod(gone, "NodeLost", "x", True),))


def test_a_pod_is_deleted_by_its_uid_and_only_once(acting: Acting, server: ScriptedServer) -> None:
    server.script = [DONE, ABSENT, DONE]
    for _ in range(3):
        acting.hands.carry_out(*lost(tracked=False))
    assert server.asked[0].body["preconditions"] == {"uid": "uid-0-a"}
    assert server.asked[0].body["gracePeriodSeconds"] == 0
    assert len(server.asked) == 3
    assert acting.done == ["NodeLost"]


def test_a_jobs_pod_is_said_to_have_failed_before(acting: Acting, server: ScriptedServer) -> None:
    server.script = [DONE, DONE, ABSENT, DONE]
    acting.hands.carry_out(*lost(tracked=True))
    assert asked(server)[:2] == ["PATCH status", "DELETE a-worker-0"]
    told = server.asked[0].body["status"]
    assert told["phase"] == "Failed"
    assert [each["type"] for each in told["conditions"]] == ["PodScheduled", "DisruptionTarget"]


def test_without_that_right_it_is_deleted_all_the_same(
    acting: Acting, server: ScriptedServer
) -> None:
    server.script = [status(403, "Forbidden", "cannot patch pods/status"), DONE, ABSENT, DONE]
    acting.hands.carry_out(*lost(tracked=True))
    assert acting.done == ["NodeLost"]


def test_another_pod_of_that_name_is_left_alone(acting: Acting, server: ScriptedServer) -> None:
    server.script = [TAKEN]
    acting.hands.carry_out(*lost(tracked=False))
    assert acting.done == []


# -- events


def test_the_same_reason_again_counts_up(api: Api, server: ScriptedServer) -> None:
    server.script = [reply(200, {"count": 4}), DONE]
    events.tell(api, job(), "Hanging", "x" * 2000)
    first, second = server.asked
    assert len(first.body["message"]) == 1000
    assert second.body["count"] == 5
    assert first.path == second.path
    server.script = [reply(200, {"count": 5}), DONE, reply(200, {"count": 1}), DONE]
    events.tell(api, job(), "Hanging", "y")
    events.tell(api, job(), "NodeLost", "y")
    assert server.asked[2].path == first.path
    assert server.asked[4].path != first.path


def test_an_event_that_cannot_be_told_is_no_failure(api: Api, server: ScriptedServer) -> None:
    server.script = [status(403, "Forbidden", "no events for you")]
    events.tell(api, job(), "Hanging", "x")
    assert len(server.asked) == 1
