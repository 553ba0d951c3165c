"""The trainer as one process: it leaves on SIGTERM with all it did, and refuses what cannot fit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.servers import free_ports
from tests.unit.trainer.shards import write_shards
from trainer.exits import FATAL, MESSAGE_PATH, TERMINATED

SAMPLES = 96
BATCH = 24
OPTIONS = (
    "model.width=0.125",
    "model.stem=small",
    "input.size_px=32",
    "data.lanes=12",
    "data.window=8",
    "data.loader_processes=0",
    f"update.global_batch={BATCH}",
    f"update.micro_batch={BATCH}",
    "update.precision=fp32",
    "update.layout=nhwc",
    "evaluate.every_epochs=1000",
    "checkpoint.every_epochs=1000",
    "checkpoint.every_s=1000",
    "log.every_s=0.2",
    "log.metrics_port=0",
    "world.threads=1",
)


class Solo:
    """A run of one process in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.reason = folder / "reason"
        data = folder / "data"
        if not data.exists():
            write_shards(data, count=SAMPLES)
        self._options = (
            *OPTIONS,
            f"data.train={data}",
            f"data.val={data}",
            f"checkpoint.address={self.folder}",
        )

    def start(
        self, *options: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        config = {"RUN_CONFIG": "name: solo\n", MESSAGE_PATH: str(self.reason)}
        config |= environment or {}
        command = [sys.executable, "-m", "trainer.train", *self._options, *options]
        return subprocess.Popen(
            command,
            env=os.environ | config,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str) -> tuple[int, str]:
        """Exit status, and what it said on stderr."""
        process = self.start(*options)
        _, said = process.communicate(timeout=200)
        return process.returncode, said

    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def newest(self) -> dict[str, Tensor]:
        """The tensors of the newest checkpoint."""
        manifest = json.loads(max(self.folder.glob("step-*/manifest.json")).read_text())
        return load_file(self.folder / manifest["objects"][0]["key"])

    def wait_for_update(self, update: int, process: subprocess.Popen[str]) -> None:
        until = time.monotonic() + 200
        while time.monotonic() < until and process.poll() is None:
            if any(line.get("update", 0) >= update for line in self.lines()):
                return
            time.sleep(0.05)
        process.kill()
        raise AssertionError(f"update {update} not reached\n{process.communicate()[1]}")


def test_a_sigterm_saves_and_leaves_and_the_next_goes_on_from_there(tmp_path: Path) -> None:
    solo = Solo(tmp_path)
    process = solo.start("epochs=100000")
    solo.wait_for_update(3, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert process.returncode == TERMINATED, said
    left = solo.lines()[-1]
    assert (left["event"], left["reason"]) == ("end", "terminated")
    assert solo.reason.read_text() == f"terminated on request after update {left['update']}, saved"

    epochs = left["seen"] / SAMPLES + 2
    status, said = solo.run(f"epochs={epochs}")
    assert status == 0, said
    start = next(line for line in solo.lines() if line["generation"] == 2)
    assert (start["event"], start["parent_update"]) == ("start", left["update"])
    end = solo.lines()[-1]
    assert (end["event"], end["reason"]) == ("end", "completed")
    assert end["seen"] == left["seen"] + 2 * SAMPLES
    assert end["update"] == left["update"] + 2 * SAMPLES // BATCH


def test_recomputed_blocks_and_a_chosen_micro_batch_train_the_same_weights(tmp_path: Path) -> None:
    states = []
    for options in (
        (f"update.micro_batch={BATCH}", "update.grad_checkpointing=never"),
        ("update.micro_batch=0", "update.grad_checkpointing=always"),
    ):
        solo = Solo(tmp_path / options[0])
        status, said = solo.run("epochs=1", *options)
        assert status == 0, said
        [state] = solo.folder.rglob("state.safetensors")
        states.append(state.read_bytes())
    assert states[0] == states[1]


def test_a_state_of_another_run_is_refused_naming_both_values_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    solo = Solo(tmp_path)
    status, said = solo.run("epochs=1")
    assert status == 0, said
    kept = sorted(path for path in solo.folder.rglob("step-*/*"))
    for options, parts in (
        (("seed=5",), ("seed 0", "seed 5")),
        (("model.width=0.25",), ("model.", "(8,", "(16,")),
    ):
        status, said = solo.run("epochs=2", *options)
        last = said.strip().splitlines()[-1]
        assert status == 2, said
        assert last.startswith("error: ")
        assert all(part in last for part in parts), last
        assert solo.reason.read_text() == last.replace("error: ", FATAL, 1)
    assert sorted(path for path in solo.folder.rglob("step-*/*")) == kept


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["model.name=senet_154", "model.width=1", "model.stem=default"], ["model.name", "senet"]),
        (["checkpoint.address=gs://a/b"], ["gs://a/b", "s3://"]),
    ],
    ids=lambda value: value[0],
)
def test_a_wrong_run_is_one_line_and_is_not_tried_again(
    options: list[str], parts: list[str], tmp_path: Path
) -> None:
    solo = Solo(tmp_path)
    status, said = solo.run("epochs=1", *options)
    assert status == 2, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in said
    assert all(part in errors[0] for part in parts), errors[0]
    assert solo.reason.read_text() == errors[0].replace("error: ", FATAL, 1)


def test_a_loss_that_collapses_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    solo = Solo(tmp_path)
    early = ("start_ratio=0", "start_agreement=0", "q=4", "temperature=0", "floor=0")
    told = [f"loss.self_label.{each}" for each in ("teacher=self", "prior_strength=0", *early)]
    plain = ["update.mixup=0", "update.label_smoothing=0", "optim.lr=0.05", "log.every_s=0"]
    status, said = solo.run("epochs=100", "loss.name=self_label", *told, *plain)
    assert status == 2, said[-2000:]
    last = said.strip().splitlines()[-1]
    assert re.match(r"error: the self-label loss collapses: .*spreads over 0\.[0-4]", last), last
    assert solo.reason.read_text() == last.replace("error: ", FATAL, 1)
    spread = [line["prediction_spread"] for line in solo.lines() if line["event"] == "train"]
    assert spread[-1] < 0.5 <= spread[0]


def test_a_resize_takes_elrs_memory_along(tmp_path: Path) -> None:
    """Two ranks for an epoch, then one: every sample's memory is there, of either rank."""
    solo = Solo(tmp_path)
    options = ("loss.name=elr", "epochs=2", "checkpoint.every_epochs=1", "update.mixup=0")
    [port] = free_ports(1)
    ranks = []
    for rank in range(2):
        group = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks.append(solo.start(*options, "epochs=1", environment=group))
    for process in ranks:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    first = solo.newest()
    status, said = solo.run(*options)
    assert status == 0, said
    assert "goes on from update" in said
    second = solo.newest()
    for kept in (first, second):
        assert (kept["loss.values"][:SAMPLES].sum(1) > 0).all()
        assert (kept["loss.values"][SAMPLES:] == 0).all()
    # An epoch alone leaves 1 - beta of a prediction; the second adds to what the first has left.
    assert first["loss.values"][:SAMPLES].float().sum(1).tolist() == pytest.approx(
        [0.3] * SAMPLES, abs=0.01
    )
    assert second["loss.values"][:SAMPLES].float().sum(1).tolist() == pytest.approx(
        [0.3 + 0.7 * 0.3] * SAMPLES, abs=0.01
    )
