"""Whole programs on a GPU: a run that is compiled, resumed and asked for answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.trainer.shards import write_shards
from trainer.config import EnsembleConfig, InputConfig, ModelConfig
from trainer.infer.forward import Forward, Manner, choose
from trainer.learn import models
from trainer.world import World

SMALL = ["model.name=resnet18", "model.width=0.25", "model.stem=small", "input.size_px=24"]
RUN = [
    *SMALL, "data.lanes=8", "data.window=8", "update.global_batch=16", "optim.lr=0.05",
    "log.metrics_port=0", "update.compile=true", "checkpoint.every_epochs=1",
]  # fmt: skip


def call(entry: str, *options: str) -> tuple[str, str]:
    """What the program wrote on stdout and on stderr."""
    command = [sys.executable, "-m", f"trainer.{entry}", *options]
    told = os.environ | {"RUN_CONFIG": "{}\n"}
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


def test_a_run_is_trained_resumed_and_asked(world: World, tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", count=64)
    places = [f"data.train={data}", f"data.val={data}", f"checkpoint.address={tmp_path / 'run'}"]
    _, told = call("train", *RUN, *places, "epochs=2")
    assert "bf16" in told
    _, told = call("train", *RUN, *places, "epochs=4")
    assert "goes on from update 8" in told
    answers = tmp_path / "answers"
    asked = [f"data={data}", f"output={answers}", f"runs=[{tmp_path / 'run'}]", "crops=['1','10']"]
    result, _ = call("ensemble", *asked, "loader_processes=0")
    assert json.loads(result)["complete"] == ["run/1", "run/10"]
    parts = [np.load(path) for path in answers.rglob("*.npy")]
    assert parts
    assert all(np.isfinite(part.astype(np.float32)).all() for part in parts)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("compiled", ["off", "inductor"])
def test_fast_answers_are_the_plain_ones(world: World, compiled: str) -> None:
    torch.manual_seed(0)
    network = models.build(ModelConfig(name="resnet50"), 100)
    input = InputConfig(size_px=96)
    views = torch.randint(256, (20, 3, 96, 96), dtype=torch.uint8)
    plain = Forward(network, input, Manner("fp32", "nchw", "off", 32), world.device)(views)
    fast = Forward(network, input, Manner("bf16", "nhwc", compiled, 16), world.device)(views)
    assert (plain.softmax(1) - fast.softmax(1)).abs().max() < 0.01


def test_a_manner_is_chosen(world: World) -> None:
    network = models.build(ModelConfig(name="resnet50"), 100)
    found = choose(network, InputConfig(size_px=96), EnsembleConfig(), 96, 10, world.device)
    assert found.compiled == "off"
    assert found.batch >= 32
