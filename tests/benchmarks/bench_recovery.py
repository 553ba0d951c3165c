"""How long three workers stand still when one is lost: torchrun with its defaults, and our agents.

Both run the same `trainer.train` on the demo's digits on this machine. A worker is lost as a
container is: agent and rank are killed at once. It is started again at once, or only when the
others have gone on.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from launcher.local import processes
from tests.benchmarks.bench_chaos import pack
from tests.benchmarks.table import Row
from tests.e2e.chaos import Watch
from tests.e2e.runs import SMALL
from tests.servers import free_ports
from trainer.config import TrainConfig, dump, parse

TIMES = 3
WORKERS = 3
VICTIM = WORKERS - 1
"""Not the worker that holds torchrun's store, whose loss ends all of torchrun's agents."""
PATIENCE_S = 300.0
EPOCHS = 4000
"""Longer than any measurement."""


class Group:
    """Agents of one run, each with its rank, and what they record."""

    def __init__(self, folder: Path, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.audit = folder / "audit"
        self.command = command
        self.variables = variables
        self.agents: list[subprocess.Popen[bytes] | None] = [None] * WORKERS

    def start(self, number: int) -> None:
        mark = {processes.MARK: processes.mark(self.folder, f"worker-{number}")}
        with (self.folder / f"worker-{number}.log").open("ab") as log:
            self.agents[number] = subprocess.Popen(
                self.command, env=os.environ | self.variables | mark, stdout=log, stderr=log
            )

    def lose(self, number: int) -> None:
        """Agent and rank, as a container ends."""
        mark = processes.mark(self.folder, f"worker-{number}")
        while processes.signal_marked(mark, signal.SIGKILL, whole=True):
            agent = self.agents[number]
            assert agent is not None
            agent.wait()
            time.sleep(0.01)

    def tell(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(line for log in logs for line in log.read_text().splitlines()[-15:])


def measure() -> list[Row]:
    """Each side in turn, so that both see the same machine."""
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    shards = pack(state / "webvision-suite" / "bench-chaos" / "shards")
    found: dict[str, dict[str, list[float]]] = {}
    for side in (torchrun, agents):
        with (
            tempfile.TemporaryDirectory(prefix="recovery-") as scratch,
            side(Path(scratch), shards) as group,
        ):
            found[side.__name__] = times(group)
    rows = []
    for what, target in (
        ("start: to the first update of 3", ""),
        ("lost for long: to the next update, by 2", "<= 10 s"),
        ("it comes: from its start to an update by 3", ""),
        ("lost and started again at once: to an update by 3", "<= 20 s"),
    ):
        peer, ours = (statistics.median(found[side][what]) for side in ("torchrun", "agents"))
        rows.append(Row(what, "s", "torchrun", peer, ours, target))
    return rows


def times(group: Group) -> dict[str, list[float]]:
    """Seconds by what was done."""
    found: dict[str, list[float]] = {}

    def take(what: str, began: float) -> None:
        found.setdefault(what, []).append(time.monotonic() - began)
        print(f"{Path(group.command[0]).name}: {what}: {found[what][-1]:.1f} s", flush=True)

    began = time.monotonic()
    for number in range(WORKERS):
        group.start(number)
        time.sleep(2.0 if number == 0 else 0)  # the first shall hold torchrun's store
    generation = until(group, 0, WORKERS)
    take("start: to the first update of 3", began + 2.0)
    for _ in range(TIMES):
        generation = calm(group, generation)
        began = time.monotonic()
        group.lose(VICTIM)
        generation = until(group, generation, WORKERS - 1)
        take("lost for long: to the next update, by 2", began)
        generation = calm(group, generation)
        began = time.monotonic()
        group.start(VICTIM)
        generation = until(group, generation, WORKERS)
        take("it comes: from its start to an update by 3", began)
        generation = calm(group, generation)
        began = time.monotonic()
        group.lose(VICTIM)
        group.start(VICTIM)
        generation = until(group, generation, WORKERS)
        take("lost and started again at once: to an update by 3", began)
    return found


def until(group: Group, before: int, world: int) -> int:
    return Watch(group).next_generation(before, at_least=world)


def calm(group: Group, generation: int) -> int:
    """Waits for some updates, and returns the generation that did them."""
    watch = Watch(group)
    watch.follow(lambda: True)
    time.sleep(1.0)
    return max(generation, watch.newest())


@contextmanager
def torchrun(folder: Path, shards: Path) -> Iterator[Group]:
    (port,) = free_ports(1)
    command = (
        str(Path(sys.executable).with_name("torchrun")),
        f"--nnodes=1:{WORKERS}",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-id=recovery",
        "--max-restarts=100",
        "-m",
        "trainer.train",
    )
    with running(Group(folder, command, variables(folder, shards))) as group:
        yield group


@contextmanager
def agents(folder: Path, shards: Path) -> Iterator[Group]:
    (port,) = free_ports(1)
    given = variables(folder, shards) | {
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{port}",
        "PET_RDZV_ID": "recovery",
        "PET_LOCAL_ADDR": "127.0.0.1",
        "PET_NNODES": f"1:{WORKERS}",
        "PET_MAX_RESTARTS": "100",
    }
    command = (sys.executable, "-m", "trainer.agent", "-m", "trainer.train")
    with ExitStack() as stack:
        meeting = (sys.executable, "-m", "trainer.rendezvous", "--host", "127.0.0.1")
        log = stack.enter_context((folder / "rendezvous.log").open("wb"))
        rendezvous = subprocess.Popen([*meeting, "--port", str(port)], stdout=log, stderr=log)
        stack.callback(rendezvous.wait)
        stack.callback(rendezvous.kill)
        yield stack.enter_context(running(Group(folder, command, given)))


@contextmanager
def running(group: Group) -> Iterator[Group]:
    """The group's processes end with it."""
    try:
        yield group
    finally:
        while processes.signal_marked(processes.mark(group.folder), signal.SIGKILL, whole=False):
            time.sleep(0.05)
        for agent in filter(None, group.agents):
            agent.wait()


def variables(folder: Path, shards: Path) -> dict[str, str]:
    (folder / "audit").mkdir()
    keys = {
        "name": "recovery",
        "data.train": str(shards / "train"),
        "data.selection": str(shards / "selection.npy"),
        "data.cache_dir": str(folder / "cache"),
        "checkpoint.address": str(folder / "run"),
        "log.audit_dir": str(folder / "audit"),
        "model.name": "resnet18",
        "epochs": str(EPOCHS),
    }
    overrides = [*SMALL, *(f"{key}={value}" for key, value in keys.items())]
    return {
        "RUN_CONFIG": dump(parse(TrainConfig, "", overrides, source="bench")),
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else torchrun is stuck (pytorch#135712)
    }
