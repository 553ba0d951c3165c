"""A run on this machine as a user drives it, and what to look at: processes, metrics, weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from examples.demo.audit import Lines, read_lines

SMALL = (
    "model.width=0.25",
    "model.stem=small",
    "input.size_px=32",
    "data.loader_processes=0",
    "data.lanes=12",
    "data.window=64",
    "update.global_batch=96",
    "update.micro_batch=48",
    "update.precision=fp32",  # timing could choose otherwise in another run
    "update.layout=nhwc",
    "evaluate.every_epochs=100",
    "checkpoint.every_epochs=0.25",
    "log.every_s=1",
    "log.metrics_port=0",
    "world.threads=1",
)
"""A network and batches for two cores; checkpoints every three updates of the test's data."""


def launcher(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *arguments], capture_output=True, text=True, timeout=600
    )
    if check and done.returncode:
        raise AssertionError(f"launcher {' '.join(arguments)}: {done.returncode}\n{done.stderr}")
    return done


@dataclass(frozen=True)
class Run:
    """One submitted run with its folders."""

    name: str
    folder: Path
    """Of checkpoints and metrics."""
    audit: Path
    options: tuple[str, ...]

    def submit(self) -> None:
        launcher("submit", "--local", "--name", self.name, *self.options)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(launcher("status", self.name, "-o", "json").stdout)
        return answer

    def metrics(self) -> Lines:
        path = self.folder / "metrics.jsonl"
        return read_lines(path) if path.exists() else []

    def generation(self) -> int:
        """Of the newest group of workers that trains."""
        return max((line["generation"] for line in self.metrics()), default=0)

    def updates(self, generation: int) -> int:
        """The last update that rank 0 of a generation did."""
        path = self.audit / f"g{generation:04d}-r0.jsonl"
        lines = read_lines(path) if path.exists() and path.stat().st_size else []
        return int(lines[-1]["update"]) if lines else 0

    def wait_for(self, update: int, generation: int = 1, timeout_s: float = 400) -> int:
        """Waits until a generation at or after the given one did the update; returns which."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            for path in sorted(self.audit.glob("g*-r0.jsonl")):
                number = int(path.name[1:5])
                if number >= generation and self.updates(number) >= update:
                    return number
            if any(line.get("reason") == "completed" for line in self.metrics()[-1:]):
                raise AssertionError(f"done before generation {generation}\n{self.tell()}")
            time.sleep(0.2)
        raise AssertionError(f"update {update} not reached in {timeout_s} s\n{self.tell()}")

    def finished(self, timeout: str = "500s") -> None:
        """Waits for the end, which must be a success."""
        done = launcher("wait", self.name, "--timeout", timeout, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{self.tell()}"

    def tell(self) -> str:
        """What a person would look at."""
        return launcher("status", self.name, check=False).stdout + "".join(
            launcher("logs", self.name, check=False).stdout.splitlines(keepends=True)[-60:]
        )

    def trainers(self) -> dict[int, int]:
        """Process ids of the running trainers by their rank."""
        found = {}
        for pid in self.processes():
            name, _, rank = Path(f"/proc/{pid}/comm").read_text().strip().partition(" ")
            if name == "rank":
                found[int(rank)] = pid
        return found

    def agents(self) -> dict[int, int]:
        """Process ids of the agents by their first rank: a rank's parent forks for an agent."""
        return {rank: parent(parent(pid)) for rank, pid in self.trainers().items()}

    def rendezvous(self) -> int:
        """Process id of the rendezvous."""
        for pid in self.processes():
            if b"trainer.rendezvous" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise AssertionError(f"no rendezvous runs\n{self.tell()}")

    def processes(self) -> Iterator[int]:
        """Ids of the living processes of this run."""
        mark = f"runs/{self.name}|"
        for entry in os.listdir("/proc"):
            try:
                content = Path(f"/proc/{entry}/environ").read_bytes() if entry.isdigit() else b""
            except OSError:
                continue
            variables = content.decode(errors="replace").split("\0")
            if any(
                each.startswith("LAUNCHER_LOCAL_PROCESS=") and mark in each for each in variables
            ):
                yield int(entry)

    def weights(self) -> tuple[int, dict[str, Tensor]]:
        """Update and tensors of the newest checkpoint."""
        newest = max(self.folder.glob("step-*/manifest.json"), key=lambda path: path.parent.name)
        manifest = json.loads(newest.read_text())
        return manifest["update"], load_file(self.folder / manifest["objects"][0]["key"])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def parent(pid: int) -> int:
    """The process that started this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not equal bit for bit."""
    assert one.keys() == other.keys()
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two tensors of a name, by their norms; 0 is the same."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / one[name].norm()) for name in one)
