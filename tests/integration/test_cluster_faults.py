"""The door to the API server under every fault of a network, on a server that fails as told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster.client import LISTS, PATIENCE_S, Api
from launcher.cluster.kinds import POD, PYTORCHJOB
from launcher.cluster.marks import SUBMISSION
from launcher.cluster.transport import connect
from launcher.errors import (
    Conflict,
    Forbidden,
    LauncherError,
    NotFound,
    Rejected,
    Unreachable,
)
from tests.integration.scripted_server import (
    ScriptedServer,
    Step,
    hang,
    reply,
    reset,
    scripted_server,
    status,
    truncated,
)
from tests.servers import free_ports

MINE = {
    "apiVersion": "kubeflow.org/v1",
    "kind": "PyTorchJob",
    "metadata": {"name": "a", "annotations": {SUBMISSION: "mine"}},
}
FOUND = reply(200, MINE)


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def time(self) -> float:
        return self.now

    def sleep(self, span_s: float) -> None:
        self.now += span_s
        self.slept.append(span_s)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(
    server: ScriptedServer, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Api]:
    monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(tmp_path / "config")))
    transport = connect()
    yield Api(transport, clock=clock.time, sleep=clock.sleep, timeout_s=5)
    transport.client.rest_client.pool_manager.clear()


def get(api: Api) -> object:
    return api.get(PYTORCHJOB, "a")


def create(api: Api) -> object:
    return api.create(MINE)


def patch(api: Api) -> object:
    return api.patch(PYTORCHJOB, "a", {"spec": {"x": 1}})


def replace(api: Api) -> object:
    return api.replace(MINE)


def delete(api: Api) -> object:
    return api.delete(PYTORCHJOB, "a", uid="u")


HARMLESS = [get, create, patch, delete]
ASK = [*HARMLESS, replace]
Ask = Callable[[Api], object]


def test_who_asks_for_what_is_told(api: Api, server: ScriptedServer) -> None:
    server.script = [FOUND]
    assert api.get(PYTORCHJOB, "a") == MINE
    (asked,) = server.asked
    assert asked.path == "/apis/kubeflow.org/v1/namespaces/ml/pytorchjobs/a"
    assert asked.headers["authorization"] == "Bearer let-me-in"


@pytest.mark.parametrize("ask", ASK)
def test_429_is_asked_again_when_the_server_wants_it(
    ask: Ask, api: Api, server: ScriptedServer, clock: Clock
) -> None:
    busy = status(429, "TooManyRequests", Retry_After="3")
    server.script = [busy, busy, FOUND]
    ask(api)
    assert clock.slept == [3.0, 3.0]
    assert len(server.asked) == 3
    assert len({(asked.method, asked.path, str(asked.body)) for asked in server.asked}) == 1


def test_a_wish_beyond_all_patience_is_not_waited_for(
    api: Api, server: ScriptedServer, clock: Clock
) -> None:
    server.script = [status(429, "TooManyRequests", "come later", Retry_After="3600")]
    with pytest.raises(Unreachable, match="answers 429: come later"):
        get(api)
    assert clock.slept == []


def test_429_without_a_wish_waits_longer_each_time(
    api: Api, server: ScriptedServer, clock: Clock
) -> None:
    server.script = [status(429, "TooManyRequests")] * 6 + [FOUND]
    get(api)
    assert [low <= pause <= 2 * low for pause, low in zip(
        clock.slept, (0.1, 0.2, 0.4, 0.8, 1.6, 2.5), strict=True
    )] == [True] * 6  # fmt: skip
    assert len(set(clock.slept)) == 6  # with jitter


@pytest.mark.parametrize("code", [500, 502, 503, 504])
@pytest.mark.parametrize("ask", HARMLESS)
def test_what_is_harmless_is_asked_again_after_a_failure_of_the_server(
    ask: Ask, code: int, api: Api, server: ScriptedServer
) -> None:
    server.script = [status(code, "InternalError"), reply(code, "<html>bad gateway"), FOUND]
    ask(api)
    assert len(server.asked) == 3


@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_what_may_not_be_done_twice_is_not(code: int, api: Api, server: ScriptedServer) -> None:
    server.script = [status(code, "InternalError", "etcd is slow"), FOUND]
    with pytest.raises(Unreachable, match=f"PyTorchJob ml/a: .* {code}: etcd is slow"):
        replace(api)
    assert len(server.asked) == 1


def test_patience_ends(api: Api, server: ScriptedServer, clock: Clock) -> None:
    server.script = [status(503, "ServiceUnavailable", "starting")] * 100
    with pytest.raises(Unreachable, match="answers 503: starting"):
        get(api)
    assert PATIENCE_S - 5 < clock.now <= PATIENCE_S


@pytest.mark.parametrize("ask", ASK)
def test_a_refused_connection_is_tried_until_patience_ends(
    ask: Ask, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted_server() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(tmp_path / "config")))
    api = Api(connect(), clock=clock.time, sleep=clock.sleep)
    with pytest.raises(Unreachable, match=r"cannot be reached: .*[Rr]efused"):
        ask(api)
    assert len(clock.slept) > 5


@pytest.mark.parametrize("ask", HARMLESS)
@pytest.mark.parametrize("step", [reset, truncated(MINE), reply(200, "<html>Log in")])
def test_an_answer_that_does_not_arrive_is_asked_for_again(
    ask: Ask, step: Step, api: Api, server: ScriptedServer
) -> None:
    server.script = [step, FOUND]
    ask(api)
    assert len(server.asked) == 2


@pytest.mark.parametrize("ask", HARMLESS)
def test_a_connection_reset_before_the_request_is_read(
    ask: Ask, api: Api, server: ScriptedServer
) -> None:
    server.deaf, server.script = 2, [FOUND]
    ask(api)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (reset, "broke off"),
        (truncated(MINE), "broke off"),
        (reply(200, "<html>Log in"), "no JSON but '<html>Log in'; is a proxy"),
        (reply(200, "[]"), r"no object but '\[\]'"),
    ],
)
def test_an_unknown_outcome_of_what_may_not_be_done_twice_is_told(
    step: Step, why: str, api: Api, server: ScriptedServer
) -> None:
    server.script = [step, FOUND]
    with pytest.raises(Unreachable, match=why):
        replace(api)
    assert len(server.asked) == 1


def test_a_hanging_server_is_given_up(api: Api, server: ScriptedServer, clock: Clock) -> None:
    api.timeout_s, api.patience_s = 0.2, 0.5
    server.script = [hang(server)] * 10
    started_at = time.monotonic()
    with pytest.raises(Unreachable, match=r"has been silent for 0\.2 s"):
        get(api)
    assert time.monotonic() - started_at < 5
    assert 1 < len(server.asked) < 10


def test_a_server_that_hangs_once_is_asked_again(api: Api, server: ScriptedServer) -> None:
    api.timeout_s = 0.2
    server.script = [hang(server), FOUND]
    assert get(api) == MINE


def test_a_redirect_is_not_followed(api: Api, server: ScriptedServer) -> None:
    [port] = free_ports(1)
    server.script = [reply(302, "", {"Location": f"http://127.0.0.1:{port}/login"})]
    with pytest.raises(Unreachable, match="answers 302: nothing"):
        get(api)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("step", "kind", "text"),
    [
        (status(401, "Unauthorized"), Forbidden, "does not know these credentials (401)"),
        (
            status(403, "Forbidden", 'User "x" cannot get resource'),
            Forbidden,
            'PyTorchJob ml/a: User "x" cannot get resource; ask for the role launcher-user',
        ),
        (
            reply(404, "404 page not found\n"),
            NotFound,
            "the cluster knows no PyTorchJob (kubeflow.org/v1); is its operator installed?",
        ),
        (
            status(404, "NotFound", 'pytorchjobs "a" not found'),
            NotFound,
            'PyTorchJob ml/a does not exist (pytorchjobs "a" not found)',
        ),
        (status(409, "Conflict", "changed"), Conflict, "PyTorchJob ml/a: changed"),
        (
            status(422, "Invalid", "spec.replicas: Invalid value: -1"),
            Rejected,
            "PyTorchJob ml/a is not accepted: spec.replicas: Invalid value: -1",
        ),
        (status(400, "BadRequest", "no object"), Rejected, "ml/a is not accepted: no object"),
        (
            status(403, "Forbidden", 'admission webhook "v.x.org" denied the request: no GPU'),
            Rejected,
            "PyTorchJob ml/a: the webhook v.x.org refuses it: no GPU",
        ),
        (
            status(400, "BadRequest", 'admission webhook "v.x.org" denied the request'),
            Rejected,
            "the webhook v.x.org refuses it: no reason",
        ),
        (
            status(403, "Forbidden", 'pods "a" is forbidden: exceeded quota: q, requested: cpu=9'),
            Rejected,
            "PyTorchJob ml/a: exceeded quota: q, requested: cpu=9",
        ),
    ],
)
@pytest.mark.parametrize("ask", [get, patch, replace])
def test_a_refusal_is_told_in_one_line_and_not_asked_again(
    step: Step, kind: type[LauncherError], text: str, ask: Ask, api: Api, server: ScriptedServer
) -> None:
    server.script = [step, FOUND]
    with pytest.raises(kind) as caught:
        ask(api)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 1


def test_a_webhook_that_does_not_answer_is_named(api: Api, server: ScriptedServer) -> None:
    server.script = [status(500, "InternalError", 'failed calling webhook "v.x.org": refused')] * 99
    with pytest.raises(Rejected, match=r'"v\.x\.org": refused; .* is it running\?'):
        create(api)


def test_pages_of_a_refusal_are_shortened(api: Api, server: ScriptedServer) -> None:
    server.script = [status(422, "Invalid", "long\n" * 1000)]
    with pytest.raises(Rejected, match=r"\(4999 characters\)") as caught:
        get(api)
    assert len(str(caught.value)) < 800


def test_deleting_what_is_gone_already_is_fine(api: Api, server: ScriptedServer) -> None:
    server.script = [reset, status(404, "NotFound")]
    delete(api)
    assert server.asked[1].body["preconditions"] == {"uid": "u"}


# -- creation


TAKEN = status(409, "AlreadyExists", 'pytorchjobs "a" already exists')


@pytest.mark.parametrize("lost", [reset, status(504, "Timeout"), truncated(MINE)])
def test_a_creation_whose_answer_was_lost_is_known_as_ours(
    lost: Step, api: Api, server: ScriptedServer
) -> None:
    stored = {**MINE, "metadata": {**MINE["metadata"], "uid": "1"}}  # type: ignore[dict-item]
    server.script = [lost, TAKEN, reply(200, stored)]
    assert api.create(MINE) == stored
    assert [asked.method for asked in server.asked] == ["POST", "POST", "GET"]


@pytest.mark.parametrize(
    "annotations", [{SUBMISSION: "theirs"}, {}, None], ids=["theirs", "unmarked", "none"]
)
def test_somebody_elses_object_of_that_name_is_a_conflict(
    annotations: dict[str, str] | None, api: Api, server: ScriptedServer
) -> None:
    metadata: dict[str, Any] = {"name": "a"}
    if annotations is not None:
        metadata["annotations"] = annotations
    server.script = [reset, TAKEN, reply(200, {**MINE, "metadata": metadata})]
    with pytest.raises(Conflict, match='ml/a: pytorchjobs "a" already exists'):
        api.create(MINE)


def test_an_object_without_a_mark_is_never_taken_for_ours(api: Api, server: ScriptedServer) -> None:
    server.script = [TAKEN, reply(200, MINE)]
    with pytest.raises(Conflict):
        api.create({**MINE, "metadata": {"name": "a"}})


# -- lists


def page(names: str, token: str = "", version: str = "7") -> Step:
    items = [{"metadata": {"name": name}} for name in names]
    return reply(200, {"items": items, "metadata": {"continue": token, "resourceVersion": version}})


def names(api: Api) -> list[str]:
    return [item["metadata"]["name"] for item in api.listing(POD).items]


def test_a_long_list_comes_in_pages(api: Api, server: ScriptedServer) -> None:
    server.script = [page("ab", "t1"), page("cd", "t2"), page("e")]
    assert names(api) == ["a", "b", "c", "d", "e"]
    assert [asked.query.get("continue") for asked in server.asked] == [None, "t1", "t2"]
    assert {asked.query["limit"] for asked in server.asked} == {"500"}


def test_a_list_whose_next_page_is_forgotten_is_begun_again(
    api: Api, server: ScriptedServer
) -> None:
    gone = status(410, "Expired", "the provided continue parameter is too old")
    server.script = [page("ab", "t1"), gone, page("ac", "t2"), page("d")]
    assert names(api) == ["a", "c", "d"]
    assert [asked.query.get("continue") for asked in server.asked] == [None, "t1", None, "t2"]


def test_a_list_that_is_forgotten_again_and_again_is_given_up(
    api: Api, server: ScriptedServer
) -> None:
    server.script = [page("ab", "t1"), status(410, "Expired", "too old")] * LISTS
    with pytest.raises(Unreachable, match=r"pods ml: the list changed faster .* too old"):
        names(api)
    assert server.script == []


def test_a_server_that_is_not_trusted_is_told_at_once(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted_server() as server:
        file = server.write_kubeconfig(tmp_path / "config")
        file.write_text(file.read_text().replace("http://", "https://"))
        monkeypatch.setenv("KUBECONFIG", str(file))
        api = Api(connect(), clock=clock.time, sleep=clock.sleep)
        with pytest.raises(Unreachable, match=r"is not trusted: .*certificate-authority"):
            get(api)
    assert clock.slept == []
