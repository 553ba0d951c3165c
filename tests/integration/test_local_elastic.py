"""The local backend with real agents and a group on gloo: losses and scaling."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import local
from launcher.local import processes
from launcher.local.folder import Folder, folders
from tests.integration.local_objects import objects

WORKER = str(Path(__file__).with_name("local_worker.py"))
AGENT = ("python", "-m", "trainer.agent")
STORE = ("python", "-m", "trainer.rendezvous", "--port", "29400")
RECOVERY_MOST_S = 120.0
"""About 10 s where two cores are free, and every process imports torch."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The workers' folder; what still runs ends with the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "data"
    folder.mkdir()
    yield folder
    for each in list(folders()):
        local.delete(each.name, force=True)
        assert processes.marked(processes.mark(each.path), whole=False) == []


def lives(data: Path, after: float) -> list[dict[str, Any]]:
    path = data / "lives.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [life for line in lines if (life := json.loads(line))["at"] > after]


def group_of(data: Path, world: int, after: float) -> dict[int, dict[str, Any]]:
    """The group of that size which formed after a moment, by rank, once it is whole."""
    deadline = time.monotonic() + RECOVERY_MOST_S
    while time.monotonic() < deadline:
        group = {life["rank"]: life for life in lives(data, after) if life["world"] == world}
        if len(group) == world:
            return group
        time.sleep(0.1)
    raise AssertionError(f"no group of {world}; processes since: {lives(data, after)}")


def steps_done(data: Path) -> int:
    return int((data / "step").read_text())


def wait_for_steps(data: Path, more: int) -> int:
    goal = steps_done(data) + more if (data / "step").exists() else more
    deadline = time.monotonic() + RECOVERY_MOST_S
    while not (data / "step").exists() or steps_done(data) < goal:
        assert time.monotonic() < deadline, "the group makes no steps"
        time.sleep(0.05)
    return steps_done(data)


def told(what: str, group: dict[int, dict[str, Any]], since: float) -> None:
    print(f"{what}: {max(life['at'] for life in group.values()) - since:.1f} s")


def test_the_group_survives_every_loss_and_change_of_size(data: Path) -> None:
    since = time.time()
    local.submit(objects("group", [*AGENT, WORKER, str(data)], rendezvous=STORE))
    group = group_of(data, 2, since)
    told("start", group, since)
    wait_for_steps(data, 5)

    since = time.time()
    local.scale("group", 3)
    group = group_of(data, 3, since)
    told("2 to 3 workers", group, since)
    assert group[0]["step"] >= 5
    assert local.status("group").restarts == 0
    done = wait_for_steps(data, 5)

    agent = group[0]["agent"]
    assert agent in [worker.pid for worker in local.status("group").workers]
    since = time.time()
    os.kill(agent, signal.SIGKILL)
    group = group_of(data, 3, since)
    told("rank 0's agent lost", group, since)
    assert group[0]["step"] >= done
    assert agent not in [life["agent"] for life in group.values()]
    assert local.status("group").restarts == 1
    wait_for_steps(data, 5)

    since = time.time()
    local.scale("group", 1)
    group = group_of(data, 1, since)
    told("3 to 1 workers", group, since)
    assert group[0]["agent"] == local.status("group").workers[0].pid
    done = wait_for_steps(data, 5)

    content = folder_of("group").read("status.json")
    assert content is not None
    since = time.time()
    os.kill(content["rendezvous"], signal.SIGKILL)
    wait_for_steps(data, 20)
    assert lives(data, since) == [], "the ranks did not notice"

    since = time.time()
    local.scale("group", 2)
    group = group_of(data, 2, since)
    told("1 to 2 workers at the new rendezvous", group, since)
    assert group[0]["step"] >= done + 20
    assert group[0]["agent"] == local.status("group").workers[0].pid

    (data / "finish").touch()
    found = local.wait("group", RECOVERY_MOST_S)
    assert found.state == "Succeeded"
    about_store = [event for event in found.events if event.object == "rendezvous"]
    assert about_store[-1].reason == "Completed"
    assert about_store[-1].message == "rendezvous ended: exit code 0"


def test_a_second_loss_while_the_group_meets_again(data: Path) -> None:
    since = time.time()
    local.submit(objects("group", [*AGENT, WORKER, str(data)], rendezvous=STORE))
    local.scale("group", 3)
    agents = [life["agent"] for _, life in sorted(group_of(data, 3, since).items())]
    done = wait_for_steps(data, 5)
    for agent in agents[:2]:
        since = time.time()
        os.kill(agent, signal.SIGKILL)
        time.sleep(0.25)  # the others have said that they wait, or have just been told to start
    group = group_of(data, 3, since)
    told("two agents lost, one after the other", group, since)
    assert group[0]["step"] >= done
    (data / "finish").touch()
    assert local.wait("group", RECOVERY_MOST_S).state == "Succeeded"


def folder_of(name: str) -> Folder:
    return next(each for each in folders() if each.name == name)
