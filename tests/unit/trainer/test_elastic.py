"""An agent's settings, and the words between agents and rendezvous."""

from __future__ import annotations

import json

import pytest

from trainer.agent import BadSettings, main, read_settings
from trainer.elastic.messages import (
    BadMessage,
    Message,
    Over,
    Refused,
    Regroup,
    Standing,
    Start,
    pack,
    parse,
)

GIVEN = {
    "PET_RDZV_ENDPOINT": "a-rendezvous:29400",
    "PET_RDZV_ID": "a",
    "PET_LOCAL_ADDR": "10.0.0.7",
    "PET_NNODES": "2:8",
    "PET_NPROC_PER_NODE": "4",
    "PET_MAX_RESTARTS": "0",
    "PET_RDZV_CONF": "join_timeout=1800,last_call_timeout=0,is_host=0",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "240",
}
STANDING = Standing("a", "n", "w-0", "waiting", 4, 2, 8, 60.0, "10.0.0.7", 1234)


def test_settings_are_torchruns_variables() -> None:
    found = read_settings(GIVEN)
    assert (found.host, found.port, found.run, found.own_host) == (
        "a-rendezvous", 29400, "a", "10.0.0.7"
    )  # fmt: skip
    assert (found.least, found.most, found.ranks, found.max_restarts) == (2, 8, 4, 0)
    assert (found.join_timeout_s, found.last_call_s, found.stop_s) == (1800, 0, 240)


def test_settings_left_out_are_torchruns_defaults() -> None:
    found = read_settings({name: GIVEN[name] for name in list(GIVEN)[:3]})
    assert (found.least, found.most, found.ranks, found.max_restarts) == (1, 1, 1, 0)
    assert (found.join_timeout_s, found.last_call_s, found.stop_s) == (600, 30, 30)


def test_an_endpoint_of_ipv6() -> None:
    found = read_settings(GIVEN | {"PET_RDZV_ENDPOINT": "[fd00::1]:29400"})
    assert (found.host, found.port) == ("fd00::1", 29400)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PET_RDZV_ENDPOINT", "", "PET_RDZV_ENDPOINT is not set"),
        ("PET_RDZV_ENDPOINT", "host", "'host'; expected host:port"),
        ("PET_RDZV_ENDPOINT", "host:no", "PET_RDZV_ENDPOINT is 'no'; expected a whole number"),
        ("PET_RDZV_ID", "", "PET_RDZV_ID is not set"),
        ("PET_LOCAL_ADDR", "", "PET_LOCAL_ADDR is not set"),
        ("PET_NNODES", "3:2", "PET_NNODES is 3:2; expected least:most"),
        ("PET_NNODES", "0:2", "PET_NNODES is '0'; expected a whole number of at least 1"),
        ("PET_NPROC_PER_NODE", "gpu", "PET_NPROC_PER_NODE is 'gpu'"),
        ("PET_MAX_RESTARTS", "-1", "PET_MAX_RESTARTS is '-1'"),
        ("PET_RDZV_CONF", "join_timeout=x", "join_timeout is 'x'"),
        ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "0", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT is '0'"),
    ],
)
def test_settings_that_are_wrong(
    name: str,
    value: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(BadSettings) as error:
        read_settings(GIVEN | {name: value})
    assert words in str(error.value)
    for each, text in (GIVEN | {name: value}).items():
        monkeypatch.setenv(each, text)
    assert main(["-m", "trainer.train"]) == 2
    assert capsys.readouterr().err == f"error: {error.value}\n"


@pytest.mark.parametrize(
    "message",
    [STANDING, Start(3, 0, 2, 0, 8, "h", 1, 0), Regroup(3, "why"), Over(), Refused("no")],
    ids=lambda each: type(each).__name__,
)
def test_messages_arrive_as_they_were(message: Message) -> None:
    assert parse(pack(message)) == message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"round": "3"}, "Standing.round is '3', not a int"),
        ({"ranks": True}, "Standing.ranks is True"),
        ({"state": "idle"}, "Standing.state is 'idle'"),
        ({"host": None}, "Standing.host is None"),
        ({"more": 1}, "no message"),
        ({"type": "Exec"}, "no message"),
    ],
)
def test_messages_that_are_none(change: dict[str, object], words: str) -> None:
    content = json.loads(pack(STANDING)) | change
    with pytest.raises(BadMessage, match=words):
        parse(json.dumps(content).encode())


@pytest.mark.parametrize("line", [b"", b"\xff", b"[]", b"1", b"null", b"{}", b'{"type": []}'])
def test_lines_that_are_no_message(line: bytes) -> None:
    with pytest.raises(BadMessage):
        parse(line)
