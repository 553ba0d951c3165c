"""The ledger of local runs: worker-seconds of real processes, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from launcher import local
from launcher.budget.records import Interval
from launcher.cli.main import run
from launcher.local import accounts, gpus
from launcher.local.folder import Folder, state_root
from launcher.local.job import read_objects
from tests.integration.local_objects import objects

SLEEP = ("python", "-c", "import time; time.sleep(1000)")


pytestmark = pytest.mark.usefixtures("state_home")


def labelled(name: str, command: tuple[str, ...], **more: Any) -> list[dict[str, Any]]:
    """Objects with the labels that `launcher render` gives."""
    made = objects(name, command, **more)
    for each in made:
        if each["kind"] == "PyTorchJob":
            each["metadata"].setdefault("labels", {}).update(
                {"launcher.dev/budget": "pilot", "launcher.dev/user": "ada",
                 "launcher.dev/model": "tiny", "launcher.dev/stage": "train"}
            )  # fmt: skip
    return made


def stored() -> list[Interval]:
    return sorted(accounts.open_ledger().load().intervals(), key=lambda each: each.pod_uid)


def wait_stored(count: int) -> list[Interval]:
    deadline = time.monotonic() + 20
    while len(found := stored()) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def supervisor_of(name: str) -> int:
    return int((Folder(state_root() / name).read("status.json") or {})["supervisor"])


def kill_supervisor(name: str) -> None:
    os.kill(supervisor_of(name), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Folder(state_root() / name).is_supervised():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_ledger_holds_what_the_status_tells(capsys: pytest.CaptureFixture[str]) -> None:
    local.submit(labelled("brief", ("python", "-c", "import time; time.sleep(1.5)")))
    status = local.wait("brief", 30)
    found = stored()
    assert len(found) == 2
    assert all(each.source == "containers" for each in found)
    owner = found[0].owner
    assert (owner.cluster, owner.budget, owner.user, owner.model) == (
        "local", "pilot", "ada", "tiny",
    )  # fmt: skip
    assert (owner.stage, owner.gpu_type, found[0].gpus) == ("train", "cpu", 1)
    assert sum(each.gpu_ms for each in found) == pytest.approx(status.worker_s * 1000, abs=2)

    capsys.readouterr()
    assert run(["usage", "--local", "--by", "job,gpu_type", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (row,) = told["rows"]
    assert (row["job"], row["gpu_type"]) == ("brief", "cpu")
    assert row["gpu_ms"] == sum(each.gpu_ms for each in found)
    assert told["open_intervals"] == 0


def test_each_start_of_a_worker_is_its_own_interval(tmp_path: Path) -> None:
    code = (
        f"import sys, pathlib; tries = pathlib.Path('{tmp_path}/tries')\n"
        "tries.open('a').write('x'); len(tries.read_text()) < 2 and sys.exit('RuntimeError: no')"
    )
    local.submit(labelled("again", ("python", "-c", code), workers=1))
    status = local.wait("again", 30)
    first, second = stored()
    assert first.through_ms <= second.start_ms, "the back-off between them is not charged"
    assert first.gpu_ms + second.gpu_ms == pytest.approx(status.worker_s * 1000, abs=2)


def test_a_killed_supervisor_is_charged_to_its_last_heartbeat(
    capsys: pytest.CaptureFixture[str],
) -> None:
    local.submit(labelled("lost", SLEEP, workers=2))
    wait_stored(2)
    time.sleep(1)
    kill_supervisor("lost")
    assert all(not each.is_closed for each in stored())
    heartbeat = (Folder(state_root() / "lost").read("status.json") or {})["as_of"]

    assert run(["usage", "--local", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    closed = stored()
    assert all(each.source == "sight" for each in closed)
    assert {each.through_ms for each in closed} <= {
        max(round(heartbeat * 1000), each.start_ms) for each in closed
    }
    assert told["total"]["gpu_ms"] == sum(each.gpu_ms for each in closed)
    assert run(["usage", "--local", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == told, "it is closed once"


def test_a_run_that_is_submitted_again_closes_what_its_lost_supervisor_left() -> None:
    local.submit(labelled("lost", SLEEP, workers=1))
    wait_stored(1)
    kill_supervisor("lost")
    local.submit(labelled("lost", SLEEP, workers=1))
    found = wait_stored(2)
    assert [each.is_closed for each in found].count(True) == 1
    local.cancel("lost", grace_s=5)
    assert all(each.is_closed for each in stored())


def test_runs_side_by_side_write_one_ledger() -> None:
    names = [f"run-{number}" for number in range(4)]
    for name in names:
        local.submit(labelled(name, ("python", "-c", "import time; time.sleep(1)"), workers=1))
    seconds = {name: local.wait(name, 60).worker_s for name in names}
    deadline = time.monotonic() + 10
    while any(Folder(state_root() / name).is_supervised() for name in names):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found = {each.owner.job: each.gpu_ms for each in stored()}
    assert found == pytest.approx({name: s * 1000 for name, s in seconds.items()}, abs=2)
    assert (accounts.address() / "v1/local/snapshot.json").exists()


def test_a_run_that_is_deleted_stays_in_the_ledger() -> None:
    local.submit(labelled("brief", ("python", "-c", "pass"), workers=1))
    local.wait("brief", 30)
    local.delete("brief")
    assert [each.owner.job for each in stored()] == ["brief"]


def test_a_ledger_that_cannot_be_written_stops_no_run() -> None:
    accounts.address().parent.mkdir(parents=True)
    accounts.address().write_text("no folder")
    local.submit(labelled("brief", ("python", "-c", "pass"), workers=1))
    assert local.wait("brief", 30).state == "Succeeded"


def test_without_a_run_there_is_nothing_to_tell(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["usage", "--local"]) == 3
    assert "no run on this machine has been accounted" in capsys.readouterr().err
    assert run(["usage", "--local", "--cluster", "dc1"]) == 2
    assert "--local goes without" in capsys.readouterr().err


def test_the_driver_names_the_type_of_the_gpus(tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0/information").write_text("Model: \t NVIDIA H200\nIRQ: 1\n")
    assert gpus.kind(tmp_path) == "NVIDIA H200"
    assert gpus.kind(tmp_path / "none") == "gpu"
    job = read_objects(labelled("any", SLEEP))
    assert job.labels["launcher.dev/user"] == "ada"
