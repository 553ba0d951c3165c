"""Packed demo data for the runs, and a state folder of their own that is cleared afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.runs import Run, launcher

SAMPLES = 1152
"""Of the demo's training pictures, chosen by a selection file; six lanes of twelve times 16."""


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train and val, packed, and a selection of SAMPLES ids."""
    folder = tmp_path_factory.mktemp("shards")
    raw = folder / "raw"
    subprocess.run([sys.executable, "-m", "examples.demo.data", str(raw)], check=True)
    for split in ("train", "val"):
        command = [sys.executable, "-m", "trainer.pack", str(raw), str(folder / split)]
        subprocess.run([*command, "--split", split, "--shard-mib", "1"], check=True)
    ids = np.arange(0, 3 * SAMPLES, 3, dtype=np.int64)
    np.save(folder / "selection.npy", ids)
    return folder


@pytest.fixture
def make_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Run]]:
    """Makes runs of a small network; each is cancelled and deleted at the test's end."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made: list[Run] = []

    def make(name: str, *options: str, epochs: int = 5) -> Run:
        run = Run(
            name,
            tmp_path / "checkpoints" / name,
            tmp_path / f"{name}-audit",
            (
                "--model=resnet18",
                f"--data={shards}/train",
                f"--val={shards}/val",
                f"--checkpoints={tmp_path}/checkpoints",
                f"data.selection={shards}/selection.npy",
                f"epochs={epochs}",
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
                f"log.audit_dir={tmp_path}/{name}-audit",
                "log.every_s=1",
                "log.metrics_port=0",
                "world.threads=1",
                *options,
            ),
        )
        made.append(run)
        return run

    yield make
    for run in made:
        launcher("cancel", run.name, "--yes", check=False)
        launcher("wait", run.name, "--timeout", "60s", check=False)
        launcher("delete", run.name, "--yes", check=False)
        assert list(run.processes()) == []
