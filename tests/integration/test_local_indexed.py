"""Independent parts as processes of this machine: retries, losses, ends, and their account."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import local
from launcher.cli.manners import DryRun, Manner, Output
from launcher.cli.submit import Sending, send_indexed
from launcher.errors import Conflict, JobFailed, UsageError
from launcher.indexed import resolve_indexed
from launcher.local import accounts
from launcher.local.folder import Folder, state_root
from launcher.local.gpus import VISIBLE
from launcher.render import render
from launcher.request import IndexedRequest
from launcher.status import Indexes, JobStatus
from tests import parts
from tests.unit.launcher.goldens import NOTHING_SET

pytestmark = pytest.mark.usefixtures("state_home")


def start(
    name: str,
    trouble: str = "none",
    troubled: tuple[int, ...] = (),
    *,
    indexes: int = 4,
    parallelism: int = 2,
    gpus: int = 0,
) -> JobStatus:
    request = IndexedRequest(
        name=name, local=True, indexes=indexes, parallelism=parallelism, gpus=gpus
    )
    work = parts.work(4, trouble, troubled)
    found = resolve_indexed(request, work, NOTHING_SET, local.default_checkpoints)
    return local.submit(render(found.spec))


def output(name: str) -> Path:
    return state_root() / name / "checkpoints"


def written(name: str) -> list[str]:
    """The parts that are there."""
    return sorted(path.name for path in output(name).glob("part-*"))


def tries(name: str, index: int) -> int:
    return len(list(output(name).glob(f"try-{index}-*")))


def let_go(name: str) -> None:
    """Lets the parts that wait go on."""
    output(name).mkdir(parents=True, exist_ok=True)
    (output(name) / "go").touch()


def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def supervisor_of(name: str) -> int:
    return int((Folder(state_root() / name).read("status.json") or {})["supervisor"])


def pid_of(name: str, index: int) -> int | None:
    return next((each.pid for each in local.status(name).workers if each.index == index), None)


def test_every_index_writes_its_part_and_no_more_run_at_once_than_asked() -> None:
    submitted = start("fine", indexes=5)
    assert submitted.indexes is not None
    assert submitted.indexes.total == 5
    assert (submitted.workers_desired, submitted.workers_least, submitted.workers_most) == (2, 1, 5)
    most = 0
    while (found := local.status("fine")).state not in ("Succeeded", "Failed"):
        most = max(most, found.workers_running)
        time.sleep(0.02)
    assert (found.state, found.indexes, found.restarts) == ("Succeeded", Indexes(5, 5), 0)
    assert most == 2
    assert written("fine") == [f"part-{index}" for index in range(5)]
    assert (output("fine") / "part-3").read_text() == "3 of 5\n"
    assert "worker-4 | index 4 of 5, try-4-0" in list(local.logs("fine"))
    assert local.list_jobs()[0].indexes == Indexes(5, 5)


def test_an_index_that_fails_is_started_again_after_a_back_off() -> None:
    start("again", "once", (1,))
    found = local.wait("again", 60)
    assert (found.state, found.indexes, found.restarts) == ("Succeeded", Indexes(4, 4), 1)
    assert [tries("again", index) for index in range(4)] == [1, 2, 1, 1]
    (wait,) = [event.message for event in found.events if event.reason == "BackOff"]
    assert wait == "back-off 1 s restarting worker-1"
    assert [line for line in local.logs("again", 1) if line.startswith("index")] == [
        "index 1 of 4, try-1-0", "index 1 of 4, try-1-1"
    ]  # fmt: skip


def test_a_killed_index_is_started_again_alone() -> None:
    start("killed", "wait", (0, 1), indexes=2)
    until(lambda: pid_of("killed", 0) and pid_of("killed", 1) and tries("killed", 0))
    victim, other = pid_of("killed", 0), pid_of("killed", 1)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    until(lambda: pid_of("killed", 0) not in (None, victim))
    assert pid_of("killed", 1) == other
    let_go("killed")
    found = local.wait("killed", 60)
    assert (found.state, found.restarts, written("killed")) == (
        "Succeeded", 1, ["part-0", "part-1"]
    )  # fmt: skip
    assert "worker-0" in [event.object for event in found.events if event.reason == "Failed"]


def test_an_index_that_fails_for_good_ends_the_job_with_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start("broken", "always", (2,))
    found = local.wait("broken", 60)
    assert found.state == "Failed"
    assert tries("broken", 2) == 4  # and three times again
    assert found.reason == (
        "1 of 4 indexes failed (2): worker-2: exit code 1: RuntimeError: index 2 stumbles"
    )
    assert found.indexes is not None
    assert found.indexes.failed == "2"


def test_where_some_may_fail_the_others_go_on() -> None:
    request = IndexedRequest(name="most", local=True, parallelism=4)
    work = parts.work(12, "always", (0,))
    spec = resolve_indexed(request, work, NOTHING_SET, local.default_checkpoints).spec
    local.submit(render(spec))
    found = local.wait("most", 60)
    assert (found.state, found.indexes) == ("Failed", Indexes(12, 11, "0"))
    assert len(written("most")) == 11


def test_exit_status_two_ends_the_job_at_once() -> None:
    start("wrong", "wrong", (0,))
    found = local.wait("wrong", 60)
    assert found.state == "Failed"
    assert found.reason == "worker-0: exit code 2: error: part size (-1) is below 1"
    assert tries("wrong", 0) == 1


def test_a_cancelled_job_is_submitted_anew_and_its_time_is_in_the_ledger() -> None:
    start("stopped", "wait", (1,))
    until(lambda: tries("stopped", 1) and len(written("stopped")) == 3)
    with pytest.raises(Conflict, match="exists and is running"):
        start("stopped")
    found = local.cancel("stopped", grace_s=5)
    assert (found.state, found.workers_running) == ("Cancelled", 0)
    start("stopped")
    assert local.wait("stopped", 60).state == "Succeeded"
    ledger = accounts.open_ledger().load()
    mine = list(ledger.of_job("", "stopped"))
    assert {each.owner.gpu_type for each in mine} == {"cpu"}
    assert {each.owner.stage for each in mine} == {"parts"}
    assert len(mine) >= 6
    assert all(each.is_closed and each.gpus == 1 for each in mine)


def test_a_lost_supervisor_is_told_and_the_next_submit_goes_on() -> None:
    start("lost", "wait", (0, 1))
    until(lambda: tries("lost", 0) and tries("lost", 1))
    os.kill(supervisor_of("lost"), signal.SIGKILL)
    until(lambda: local.status("lost").state == "Failed")
    assert "its supervisor was lost (2 of its processes still run)" in local.status("lost").reason
    start("lost")
    assert local.wait("lost", 60).state == "Succeeded"
    assert written("lost") == [f"part-{index}" for index in range(4)]


def test_it_is_scaled_between_one_and_all() -> None:
    start("wide", "wait", tuple(range(6)), indexes=6)
    until(lambda: local.status("wide").workers_running == 2)
    local.scale("wide", 5)
    until(lambda: local.status("wide").workers_running == 5)
    local.scale("wide", 1)
    until(lambda: local.status("wide").workers_running == 1)
    assert local.status("wide").restarts == 0
    with pytest.raises(UsageError, match=r"between its least \(1\) and most \(6\)"):
        local.scale("wide", 7)
    local.scale("wide", 6)
    let_go("wide")
    found = local.wait("wide", 60)
    assert (found.state, found.indexes) == ("Succeeded", Indexes(6, 6))


def test_each_of_this_machines_gpus_is_for_one_index_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VISIBLE, "3,5,7")
    with pytest.raises(UsageError, match="--gpus is 4, but this machine shows 3"):
        start("greedy", gpus=4)
    start("shared", "wait", (0, 1, 2), indexes=3, parallelism=3, gpus=2)
    until(lambda: tries("shared", 0))
    time.sleep(0.5)
    pid = pid_of("shared", 0)
    assert local.status("shared").workers_running == 1  # a second would need a fourth
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"{VISIBLE}=3,5".encode() in environment
    local.cancel("shared", grace_s=5)
    start("none", "wait", (0,), indexes=1)
    until(lambda: tries("none", 0))
    environment = Path(f"/proc/{pid_of('none', 0)}/environ").read_bytes().split(b"\0")
    assert f"{VISIBLE}=".encode() in environment


def test_a_verb_sends_it_and_waits(capsys: pytest.CaptureFixture[str]) -> None:
    request = IndexedRequest(local=True, parallelism=4, overrides=("troubled=[0]",))
    sending = Sending(wait=True, timeout="60s", output=Output.name)
    send_indexed(request, parts.work(), sending, Manner())
    told = capsys.readouterr()
    name = told.out.strip().partition("/")[2]
    assert name.startswith("parts-")
    assert written(name) == [f"part-{index}" for index in range(4)]
    assert "4/4 indexes done" in told.err
    wrong = IndexedRequest(local=True, name="w", overrides=("trouble=wrong", "troubled=[0]"))
    with pytest.raises(JobFailed, match="part size"):
        send_indexed(wrong, parts.work(), sending, Manner())
    shown = IndexedRequest(local=True)
    send_indexed(shown, parts.work(), Sending(DryRun.client, output=Output.yaml), Manner())
    assert "completionMode: Indexed" in capsys.readouterr().out
