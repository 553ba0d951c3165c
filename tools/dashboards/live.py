"""A real training run on this machine, and Prometheus that scrapes it beside the generated past."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.dashboards.history import History
from tools.dashboards.past import recorded
from tools.dashboards.server import GENERATED, Prometheus, prometheus, rules, served

SCRAPE_S = 1.0
OPTIONS = (
    "--workers=2", "--min-workers=1", "--max-workers=3", "model.width=0.25", "model.stem=small",
    "input.size_px=32", "data.loader_processes=1", "update.global_batch=96",
    "update.micro_batch=48", "update.precision=fp32", "update.layout=nhwc", "data.lanes=12",
    "data.window=64", "checkpoint.every_s=20", "checkpoint.every_epochs=0.2", "log.every_s=1",
    "evaluate.every_epochs=0.5", "world.threads=1",
)  # fmt: skip
"""A small network for two cores that evaluates and saves often."""


@dataclass(frozen=True)
class Training:
    """The real run: submitted, followed and ended by the verbs of the launcher."""

    name: str
    folder: Path
    shards: str
    """Where train and val are packed: a folder, or a bucket's prefix."""
    port: int
    """Where rank 0 serves its metrics."""
    epochs: int
    environment: Mapping[str, str]
    options: tuple[str, ...] = ()
    """Beside OPTIONS."""

    def pack(self) -> None:
        """Makes the demo's data and packs them."""
        raw = str(self.folder / "raw")
        self._run("-m", "examples.demo.data", raw)
        for split in ("train", "val"):
            self._run("-m", "trainer.pack", raw, f"{self.shards}/{split}", "--split", split,
                      "--shard-mib", "1")  # fmt: skip

    def submit(self) -> None:
        self._launcher(
            "submit", "--local", "--name", self.name, "--model=resnet18",
            f"--data={self.shards}/train", f"--val={self.shards}/val",
            f"--checkpoints={self.folder}/checkpoints", f"epochs={self.epochs}", *OPTIONS,
            *self.options,
            f"log.metrics_port={self.port}", f"data.cache_dir={self.folder}/cache",
        )  # fmt: skip

    def lines(self) -> list[dict[str, Any]]:
        """Of its metrics.jsonl, so far."""
        path = self.folder / "checkpoints" / self.name / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def wait_for(self, event: str, count: int, timeout_s: float = 120) -> None:
        """Waits until so many lines of that kind are there."""
        ends_at = time.monotonic() + timeout_s
        while sum(line["event"] == event for line in self.lines()) < count:
            if time.monotonic() > ends_at:
                log = self._launcher("logs", self.name, check=False)
                raise RuntimeError(f"{self.name} has no {count} lines of {event}: {log[-2000:]}")
            time.sleep(0.2)

    def kill_worker(self) -> None:
        """Kills one as a lost machine would."""
        status = json.loads(self._launcher("status", self.name, "-o", "json"))
        os.killpg(status["workers"][1]["pid"], signal.SIGKILL)

    def scale(self, workers: int) -> None:
        self._launcher("scale", self.name, "--workers", str(workers))

    def end(self) -> None:
        """Cancels and deletes it, whatever has become of it."""
        self._launcher("cancel", self.name, "--yes", "--grace", "10s", check=False)
        self._launcher("wait", self.name, "--timeout", "60s", check=False)
        self._launcher("delete", self.name, "--yes", "--force", check=False)

    def _launcher(self, *words: str, check: bool = True) -> str:
        return self._run("-m", "launcher", *words, check=check)

    def _run(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, **self.environment, "XDG_STATE_HOME": str(self.folder / "state")},
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words[:4])}: {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout


@contextlib.contextmanager
def training(run: Training) -> Iterator[Training]:
    """Submits; the run is ended with the block."""
    try:
        run.submit()
        yield run
    finally:
        run.end()


@contextlib.contextmanager
def watched(
    folder: Path, days: float, run: Training, ports: tuple[int, int], controller: str = ""
) -> Iterator[Prometheus]:
    """Prometheus over a generated past of so many days, which scrapes the run's trainer, what is
    generated now, and a controller where one is given as host:port."""
    history = History(time.time(), days, run.name)
    folder.mkdir(parents=True, exist_ok=True)
    history.write(folder)
    recorded(history, folder, ports[0])
    with served(lambda: history.page(time.time())) as page:
        targets = {"trainer": f"127.0.0.1:{run.port}", GENERATED: f"127.0.0.1:{page}"}
        if controller:
            targets["controller"] = controller
        evaluated = rules(folder / "rules", 2 * SCRAPE_S)
        with prometheus(
            folder, ports[1], targets=targets, rule_files=evaluated, every_s=SCRAPE_S
        ) as server:
            yield server
