"""The local backend with workers that need no torch: everything but the group they form."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import local
from launcher.errors import Conflict, NotFound, TimedOut, UsageError
from launcher.local import processes
from launcher.local.folder import Folder, folders
from launcher.status import JobStatus
from tests.integration.local_objects import objects

SLEEP = "import time; time.sleep(1000)"


pytestmark = pytest.mark.usefixtures("state_home")


def python(code: str) -> list[str]:
    return ["python", "-c", code]


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def folder_of(name: str) -> Folder:
    return next(each for each in folders() if each.name == name)


def pid_of(name: str, worker: int) -> int:
    pid = local.status(name).workers[worker].pid
    assert pid is not None
    return pid


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def reasons(found: JobStatus, about: str) -> list[str]:
    return [event.reason for event in found.events if event.object == about]


def test_a_run_succeeds_with_the_environment_of_the_operator(tmp_path: Path) -> None:
    code = (
        "import json, os\n"
        f"with open(f'{tmp_path}/{{os.getpid()}}.json', 'w') as file:\n"
        "    json.dump(dict(os.environ), file)"
    )
    submitted = local.submit(objects("fine", python(code), env={"RUN_CONFIG": "a: 1\nb: 2\n"}))
    assert submitted.state != "Failed"
    assert (submitted.workers_least, submitted.workers_desired, submitted.workers_most) == (1, 2, 3)

    found = local.wait("fine", 20)

    assert found.state == "Succeeded"
    assert (found.restarts, found.model, found.checkpoints) == (0, "tiny", "file:///nowhere")
    assert [worker.state for worker in found.workers] == ["Succeeded", "Succeeded"]
    assert 0 < found.worker_s < 20
    assert reasons(found, "worker-0") == ["Started", "Completed"]
    first, second = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert first["PET_RDZV_ENDPOINT"] == second["PET_RDZV_ENDPOINT"]
    assert first["PET_RDZV_ENDPOINT"].startswith("127.0.0.1:")
    expected = {
        "PET_NNODES": "1:3",
        "PET_NPROC_PER_NODE": "1",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ID": "fine",
        "PET_MAX_RESTARTS": "100",
        "PET_LOCAL_ADDR": "127.0.0.1",
        "PYTHONUNBUFFERED": "1",
        "RUN_CONFIG": "a: 1\nb: 2\n",
    }
    assert {name: first[name] for name in expected} == expected
    conf = dict(pair.split("=") for pair in first["PET_RDZV_CONF"].split(","))
    assert conf["last_call_timeout"] == "1"
    assert conf["join_timeout"] == "600"


def test_a_failed_worker_is_started_again_after_a_back_off(tmp_path: Path) -> None:
    code = (
        f"import sys, pathlib; tries = pathlib.Path('{tmp_path}/tries')\n"
        "tries.open('a').write('x'); n = len(tries.read_text())\n"
        "print('try', n, flush=True)\n"
        "n < 3 and sys.exit(f'RuntimeError: try {n} went wrong')"
    )
    local.submit(objects("again", python(code), workers=1))
    lines: list[str] = []
    follower = threading.Thread(target=lambda: lines.extend(local.logs("again", 0, follow=True)))
    follower.start()

    found = local.wait("again", 20)
    follower.join(5)

    assert (found.state, found.restarts, found.workers[0].restarts) == ("Succeeded", 2, 2)
    waits = [event.message for event in found.events if event.reason == "BackOff"]
    assert waits == ["back-off 1 s restarting worker-0", "back-off 2 s restarting worker-0"]
    failures = [event.message for event in found.events if event.reason == "Failed"]
    assert failures == [f"exit code 1: RuntimeError: try {n} went wrong" for n in (1, 2)]
    assert not follower.is_alive()
    assert [line for line in lines if line.startswith("try")] == ["try 1", "try 2", "try 3"]
    assert [line[:19] for line in lines if line.startswith("---")] == [
        f"--- worker-0, start {n}"[:19] for n in (1, 2, 3)
    ]
    assert list(local.logs("again", 0, tail=2))[-1] == "try 3"
    assert list(local.logs("again"))[1] == "worker-0 | try 1"
    with pytest.raises(NotFound, match=r"no log of worker-7 \(logs: worker-0\)"):
        list(local.logs("again", 7))


def test_a_usage_error_fails_the_run_at_once() -> None:
    code = "import sys; print('lr (-1) is below 0', file=sys.stderr); sys.exit(2)"
    local.submit(objects("wrong", python(code)))
    found = local.wait("wrong", 20)
    assert found.state == "Failed"
    assert found.reason in [f"worker-{n}: exit code 2: lr (-1) is below 0" for n in (0, 1)]
    assert found.restarts == 0
    assert found.ended_at is not None


def test_a_fatal_message_fails_the_run_while_its_agent_lives() -> None:
    code = (
        "import os, time\n"
        "message = 'fatal: other dataset ' + 'x' * 9000\n"
        "open(os.environ['TERMINATION_MESSAGE_PATH'], 'w').write(message)\n"
        "time.sleep(1000)"
    )
    local.submit(objects("fatal", python(code), workers=1))
    found = local.wait("fatal", 20)
    assert found.state == "Failed"
    assert found.reason.startswith("worker-0: other dataset xxx")
    assert len(found.workers[0].reason) == 4096
    assert list(folder_of("fatal").termination.iterdir()) == []


def test_a_missing_program_fails_the_run() -> None:
    local.submit(objects("missing", ["/no/such/program"]))
    found = local.wait("missing", 20)
    assert found.state == "Failed"
    assert "cannot run '/no/such/program'" in found.reason
    assert "No such file or directory" in found.reason


def test_a_killed_agent_takes_its_children_along_and_comes_back() -> None:
    # As torchrun does: the child has a session of its own, so no group or terminal ends it.
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)\n"
        "print('child', child.pid, flush=True); time.sleep(1000)"
    )
    local.submit(objects("orphans", python(code)))

    def children() -> list[int]:
        lines = local.logs("orphans", 1)
        return [int(line.split()[1]) for line in lines if line.startswith("child")]

    until(lambda: len(children()) == 1)
    killed_at = time.monotonic()
    os.kill(pid_of("orphans", 1), signal.SIGKILL)
    until(lambda: len(children()) == 2)
    assert time.monotonic() - killed_at < 10
    first, second = children()
    assert not is_alive(first)
    assert is_alive(second)
    found = local.status("orphans")
    assert (found.state, found.restarts) == ("Running", 1)
    assert found.workers[0].restarts == 0
    assert found.workers[1].reason == "killed by SIGKILL"
    assert reasons(found, "worker-1") == ["Started", "Failed", "BackOff", "Started"]

    local.cancel("orphans", grace_s=5)
    assert not is_alive(second)


def test_the_rendezvous_is_started_again_on_its_port(tmp_path: Path) -> None:
    code = (
        f"import sys, time; open('{tmp_path}/ports', 'a').write(sys.argv[2] + '\\n')\n"
        "time.sleep(1000)"
    )
    store = [*python(code), "--port", "29400"]
    local.submit(objects("store", python(SLEEP), rendezvous=store))
    ports = tmp_path / "ports"
    until(lambda: ports.exists() and len(ports.read_text().split()) == 1)
    status = folder_of("store").read("status.json")
    assert status is not None
    os.kill(status["rendezvous"], signal.SIGKILL)
    until(lambda: len(ports.read_text().split()) == 2)
    first, second = ports.read_text().split()
    assert first == second != "29400"
    assert local.status("store").restarts == 0  # no worker was lost


def test_scaling_takes_the_highest_indices_and_keeps_to_the_range(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('left on request'))\n"
        "print('ready', flush=True); time.sleep(1000)"
    )
    local.submit(objects("sizes", python(code)))
    before = [pid_of("sizes", index) for index in (0, 1)]

    local.scale("sizes", 3)
    until(lambda: local.status("sizes").workers_running == 3)
    until(lambda: list(local.logs("sizes")).count("worker-2 | ready") == 1)
    assert [pid_of("sizes", index) for index in (0, 1)] == before

    local.scale("sizes", 1)
    until(lambda: len(local.status("sizes").workers) == 1)
    found = local.status("sizes")
    assert (pid_of("sizes", 0), found.workers_desired, found.restarts) == (before[0], 1, 0)
    assert found.state == "Running"
    for index in (1, 2):
        assert "left on request" in list(local.logs("sizes", index))
        assert reasons(found, f"worker-{index}") == ["Started", "Killing", "Killed"]

    with pytest.raises(UsageError, match=r"workers \(4\) of run 'sizes' .* least \(1\) and most"):
        local.scale("sizes", 4)
    local.cancel("sizes")
    with pytest.raises(Conflict, match="has ended"):
        local.scale("sizes", 2)


def test_cancel_kills_what_outlives_its_grace_period() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True); time.sleep(1000)"
    )
    local.submit(objects("deaf", python(code), workers=1))
    until(lambda: "deaf" in list(local.logs("deaf", 0)))
    pid = pid_of("deaf", 0)
    found = local.cancel("deaf", grace_s=0.5)
    assert found.state == "Cancelled"
    assert found.reason == "cancelled by the user"
    assert not is_alive(pid)
    assert "did not end in its grace period" in " ".join(each.message for each in found.events)
    assert local.cancel("deaf").state == "Cancelled"  # once more changes nothing


def test_an_ended_run_is_submitted_again_and_its_worker_seconds_add_up() -> None:
    local.submit(objects("twice", python("import time; time.sleep(0.5)"), workers=1))
    first = local.wait("twice", 20)
    local.submit(objects("twice", python("import time; time.sleep(0.5)"), workers=1))
    second = local.wait("twice", 20)
    assert (first.state, second.state) == ("Succeeded", "Succeeded")
    assert second.worker_s >= first.worker_s + 0.5


def test_two_runs_at_once_do_not_collide(tmp_path: Path) -> None:
    code = (
        f"import os, time; file = open(f'{tmp_path}/{{os.getpid()}}', 'w', buffering=1)\n"
        "print(os.environ['PET_RDZV_ENDPOINT'], file=file); time.sleep(1000)"
    )
    for name in ("one", "two"):
        local.submit(objects(name, python(code), workers=1))

    def endpoints() -> set[str]:
        return {each.read_text() for each in tmp_path.iterdir() if each.is_file()} - {""}

    until(lambda: len(endpoints()) == 2)
    assert [job.name for job in local.list_jobs()] == ["one", "two"]
    with pytest.raises(Conflict, match="'one' exists and is running"):
        local.submit(objects("one", python(code)))
    local.cancel("one", grace_s=1)
    assert local.status("two").state == "Running"


def test_a_lost_supervisor_is_told_and_a_new_submit_goes_on() -> None:
    local.submit(objects("lost", python(SLEEP)))
    old = [pid_of("lost", index) for index in (0, 1)]
    content = folder_of("lost").read("status.json")
    assert content is not None
    os.kill(content["supervisor"], signal.SIGKILL)
    until(lambda: not folder_of("lost").is_supervised())

    found = local.status("lost")
    assert found.state == "Failed"
    assert "its supervisor was lost (3 of its processes still run)" in found.reason
    assert local.wait("lost", 5).state == "Failed"
    assert all(is_alive(pid) for pid in old)

    local.submit(objects("lost", python(SLEEP)))
    until(lambda: local.status("lost").workers_running == 2)
    assert not any(is_alive(pid) for pid in old)
    found = local.status("lost")
    assert found.state == "Running"
    assert "killed 3 processes that a lost supervisor had left" in [e.message for e in found.events]

    content = folder_of("lost").read("status.json")
    assert content is not None
    os.kill(content["supervisor"], signal.SIGKILL)
    until(lambda: not folder_of("lost").is_supervised())
    assert local.cancel("lost").state == "Cancelled"
    assert processes.marked(processes.mark(folder_of("lost").path), whole=False) == []


def test_a_run_outlives_the_terminal_that_submitted_it(tmp_path: Path) -> None:
    given = tmp_path / "objects.json"
    given.write_text(json.dumps(objects("apart", python(SLEEP), workers=1)))
    code = (
        "import json, os, signal; from launcher import local\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # ignored where the tests run under nohup
        f"local.submit(json.load(open({str(given)!r}))); os.killpg(0, signal.SIGHUP)"
    )
    terminal = subprocess.run([sys.executable, "-c", code], start_new_session=True, check=False)
    assert terminal.returncode == -signal.SIGHUP
    time.sleep(0.5)
    found = local.status("apart")
    assert (found.state, found.workers_running) == ("Running", 1)
    content = folder_of("apart").read("status.json")
    assert content is not None
    os.kill(content["supervisor"], signal.SIGTERM)  # as when the machine shuts down
    found = local.wait("apart", 20)
    assert (found.state, found.reason) == (
        "Cancelled",
        "the supervisor was told to end (SIGTERM)",
    )


def test_waiting_tells_changes_and_ends_in_time() -> None:
    local.submit(objects("slow", python(SLEEP), workers=1))
    told: list[str] = []
    with pytest.raises(TimedOut, match=r"'slow' is still Running after 0\.5 s"):
        local.wait("slow", 0.5, lambda found: told.append(found.state))
    assert told[-1] == "Running"


def test_unknown_and_live_runs_are_named() -> None:
    local.submit(objects("live", python(SLEEP), workers=1))
    for name in ("nosuch", "../live", ""):
        with pytest.raises(NotFound, match=r"on this machine \(runs: live\)"):
            local.status(name)
    with pytest.raises(Conflict, match="'live' is running; end it first with: launcher cancel"):
        local.delete("live")
    path = folder_of("live").path
    assert local.default_checkpoints("live") == (path / "checkpoints").as_uri()
    local.delete("live", force=True)
    assert not path.exists()
    assert local.list_jobs() == []


def test_objects_that_cannot_run_here_are_refused() -> None:
    whole = objects("odd", python(SLEEP))
    for broken in ([], whole[:2], [whole[0], {**whole[2], "spec": {"nprocPerNode": "auto"}}]):
        with pytest.raises(UsageError, match="cannot run on this machine"):
            local.submit(broken)
    assert local.list_jobs() == []
