"""Real agents, a real rendezvous, and ranks that fail, hang and are killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

WORKER = str(Path(__file__).with_name("elastic_worker.py"))
PATIENCE_S = 120.0
"""An agent imports torch before it says that it waits: seconds, and more on a busy machine."""
Process = subprocess.Popen[str]


class Stage:
    """A rendezvous and the agents of a test; its end ends them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.processes: list[Process] = []
        self.port = 0
        self.meet()

    def meet(self) -> Process:
        """Starts the rendezvous; on its old port if it was there before."""
        rendezvous = self.run("rendezvous", "--port", str(self.port), "--host", "127.0.0.1")
        assert rendezvous.stdout is not None
        self.port = int(rendezvous.stdout.readline().split()[-1])
        self.rendezvous = rendezvous
        return rendezvous

    def agent(self, word: str = "wait", *, run: str = "run", **settings: object) -> Process:
        given = {
            "PET_RDZV_ENDPOINT": f"127.0.0.1:{self.port}",
            "PET_RDZV_ID": run,
            "PET_LOCAL_ADDR": "127.0.0.1",
            "PET_NNODES": "1",
            "PET_RDZV_CONF": "join_timeout=100,last_call_timeout=100",
            "TERMINATION_MESSAGE_PATH": str(self.folder / "reason"),
            **{key: str(value) for key, value in settings.items()},
        }
        return self.run("agent", WORKER, str(self.folder), word, **given)

    def run(self, module: str, *arguments: str, **variables: str) -> Process:
        command = [sys.executable, "-m", f"trainer.{module}", *arguments]
        environment = {name: value for name, value in os.environ.items() if name[:3] != "OMP"}
        errors = self.stack.enter_context((self.folder / f"{module}.log").open("a"))
        process = subprocess.Popen(
            command, env=environment | variables, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        self.stack.callback(end, process)
        return process

    def starts(self) -> list[dict[str, Any]]:
        path = self.folder / "starts.jsonl"
        return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []

    def until_started(self, count: int) -> list[dict[str, Any]]:
        until(lambda: len(self.starts()) >= count, f"{count} ranks started")
        return self.starts()

    def log(self, module: str = "agent") -> str:
        return (self.folder / f"{module}.log").read_text()

    def finish(self) -> None:
        (self.folder / "finish").touch()


def until(look: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < ends_at, what
        time.sleep(0.02)


def end(process: Process) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        made = Stage(tmp_path, stack)
        yield made
    until(lambda: not any(lives(each["pid"]) for each in made.starts()), "ranks outlive agents")


def test_neither_agent_nor_rendezvous_imports_torch() -> None:
    code = "import sys, trainer.agent, trainer.rendezvous; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_ranks_are_told_who_they_are_and_the_run_ends_with_them(stage: Stage) -> None:
    agents = [stage.agent(PET_NNODES=2, PET_NPROC_PER_NODE=count) for count in (2, 1)]
    starts = stage.until_started(3)
    assert sorted(each["RANK"] for each in starts) == ["0", "1", "2"]
    assert {each["WORLD_SIZE"] for each in starts} == {"3"}
    assert {each["MASTER_ADDR"] for each in starts} == {"127.0.0.1"}
    assert len({each["MASTER_PORT"] for each in starts}) == 1
    of_two = sorted(
        (each["GROUP_RANK"], each["LOCAL_RANK"], each["LOCAL_WORLD_SIZE"]) for each in starts
    )
    assert of_two in (
        [("0", "0", "2"), ("0", "1", "2"), ("1", "0", "1")],
        [("0", "0", "1"), ("1", "0", "2"), ("1", "1", "2")],
    )
    threads = {each["LOCAL_WORLD_SIZE"]: each["OMP_NUM_THREADS"] for each in starts}
    assert threads == {"2": "1", "1": None}
    stage.finish()
    assert [each.wait(PATIENCE_S) for each in agents] == [0, 0]
    late = stage.agent()
    assert late.wait(PATIENCE_S) == 0, "it hears that the run is done"
    assert len(stage.starts()) == 3
    stage.rendezvous.terminate()
    assert stage.rendezvous.wait(PATIENCE_S) == 0


def test_what_cannot_be_cured_is_not_tried_again(stage: Stage) -> None:
    assert stage.agent("2", PET_MAX_RESTARTS=5).wait(PATIENCE_S) == 2
    assert len(stage.starts()) == 1


def test_a_rank_that_fails_is_started_again_so_often(stage: Stage) -> None:
    assert stage.agent("7", PET_MAX_RESTARTS=2).wait(PATIENCE_S) == 1
    assert len(stage.starts()) == 3
    assert "rank 0 ended: exit code 7; all 2 restarts are used up" in stage.log()


def test_the_loss_of_another_worker_is_no_failure(stage: Stage) -> None:
    stays, goes = (stage.agent(PET_NNODES="1:2", PET_MAX_RESTARTS=0) for _ in range(2))
    (own,) = [each["pid"] for each in stage.until_started(2) if agent_of(each) == stays.pid]
    goes.kill()
    os.kill(own, signal.SIGKILL)  # as a collective would fail that lacks the other
    (again,) = stage.until_started(3)[2:]
    assert (again["WORLD_SIZE"], again["RANK"]) == ("1", "0")
    stage.finish()
    assert stays.wait(PATIENCE_S) == 0


def agent_of(rank: dict[str, Any]) -> int:
    """Process id of a rank's agent: the parent of the process which forks for it."""
    return parent(parent(rank["pid"]))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_ranks_end_with_an_agent_that_is_killed(stage: Stage) -> None:
    agent = stage.agent("deaf", PET_NPROC_PER_NODE=2)
    pids = [each["pid"] for each in stage.until_started(2)]
    agent.kill()
    until(lambda: not any(map(lives, pids)), "the ranks end")


def test_ranks_that_do_not_end_are_killed(stage: Stage) -> None:
    agent = stage.agent("deaf", TORCH_ELASTIC_SHUTDOWN_TIMEOUT=1)
    (rank,) = stage.until_started(1)
    agent.terminate()
    assert agent.wait(PATIENCE_S) == 143
    assert not lives(rank["pid"])
    assert "ranks did not end within 1 s; killed" in stage.log()


def test_a_worker_that_shall_end_leaves_and_the_others_go_on(stage: Stage) -> None:
    agents = [stage.agent("polite", PET_NNODES="1:2", PET_MAX_RESTARTS=0) for _ in range(2)]
    pids = [each["pid"] for each in stage.until_started(2)]
    agents[0].terminate()
    assert agents[0].wait(PATIENCE_S) == 143
    until(lambda: not any(map(lives, pids)), "both leave")
    (again,) = stage.until_started(3)[2:]
    assert again["WORLD_SIZE"] == "1"


def test_a_signal_while_it_imports_or_waits_ends_it(stage: Stage) -> None:
    importing, waiting = (stage.agent(PET_NNODES=3) for _ in range(2))
    children = Path(f"/proc/{importing.pid}/task/{importing.pid}/children")
    until(lambda: children.read_text() != "", "it imports in another process")
    assert ": waiting" not in stage.log("rendezvous")
    importing.terminate()
    assert importing.wait(PATIENCE_S) == 143
    until(lambda: ": waiting" in stage.log("rendezvous"), "it waits")
    waiting.terminate()
    assert waiting.wait(PATIENCE_S) == 143


def test_no_group_in_time(stage: Stage) -> None:
    agent = stage.agent(PET_NNODES=2, PET_RDZV_CONF="join_timeout=1,last_call_timeout=0")
    assert agent.wait(PATIENCE_S) == 1
    words = "no group of 2 to 2 workers within 1 s (job.rendezvous.join_timeout_s)"
    assert words in stage.log()
    assert (stage.folder / "reason").read_text() == words


def test_no_rendezvous_at_all(stage: Stage) -> None:
    end(stage.rendezvous)
    agent = stage.agent(PET_RDZV_CONF="join_timeout=1,last_call_timeout=0")
    assert agent.wait(PATIENCE_S) == 1
    assert "Connect call failed" in (stage.folder / "reason").read_text()


def test_the_rendezvous_of_another_run(stage: Stage) -> None:
    stage.agent()
    stage.until_started(1)
    assert stage.agent(run="other").wait(PATIENCE_S) == 1
    assert (stage.folder / "reason").read_text() == "this rendezvous serves run run, not other"


def test_a_rendezvous_that_is_lost_while_agents_wait(stage: Stage) -> None:
    agents = [stage.agent(PET_NNODES=2)]
    until(lambda: ": waiting" in stage.log("rendezvous"), "one waits")
    end(stage.rendezvous)
    stage.meet()
    agents.append(stage.agent(PET_NNODES=2))
    assert {each["WORLD_SIZE"] for each in stage.until_started(2)} == {"2"}
    stage.finish()
    assert [each.wait(PATIENCE_S) for each in agents] == [0, 0]


def test_a_program_that_cannot_be_imported(stage: Stage) -> None:
    (stage.folder / "broken_program.py").write_text("raise SystemError('broken')\n")
    variables = {
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{stage.port}",
        "PET_RDZV_ID": "run",
        "PET_LOCAL_ADDR": "127.0.0.1",
        "PYTHONPATH": f"{Path.cwd()}:{stage.folder}",
    }
    assert stage.run("agent", "-m", "broken_program", **variables).wait(PATIENCE_S) == 1
    assert "broken_program cannot be imported" in stage.log()


STRANGERS = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"{}\n",
    b'{"type": "Over"}\n',
    b"x" * 20_000,
    b"\xff\n",
    b"",
]


def test_strangers_at_the_port_are_sent_away(stage: Stage) -> None:
    for words in STRANGERS:
        with socket.create_connection(("127.0.0.1", stage.port), PATIENCE_S) as stranger:
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            stranger.settimeout(PATIENCE_S)
            with suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
    stage.agent()
    stage.until_started(1)
    assert "Traceback" not in stage.log("rendezvous")
