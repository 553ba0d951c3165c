"""What a calibration times and tells."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launcher.plan import parse_measurements
from trainer import calibrate
from trainer.config import InputConfig, ModelConfig, TrainConfig, UpdateConfig, dump
from trainer.world import World


def config(**more: object) -> TrainConfig:
    facts = {
        "name": "timed",
        "model": ModelConfig(name="resnet18", num_classes=7, width=0.125, stem="small"),
        "input": InputConfig(size_px=32),
        "update": UpdateConfig(micro_batch=4, precision="fp32", layout="nchw"),
    }
    return TrainConfig(**(facts | more))  # type: ignore[arg-type]


def world(size: int = 1) -> World:
    return World(0, size, torch.device("cpu"), None)  # type: ignore[arg-type]


def test_the_median_of_a_picture_and_the_spread_are_told() -> None:
    times = [0.4] * 10 + [0.5] * 9 + [9.0]  # one step that something held up
    document = calibrate.describe(config(), world(), times, "fp32", "nchw")
    [told] = document["measurements"]
    assert told["seconds_per_image"] == pytest.approx(0.45 / 4)
    assert told["spread_ratio"] == pytest.approx(0.05 / 0.45)
    assert (told["model"], told["size_px"], told["gpu_type"]) == ("resnet18", 32, "cpu")
    [read] = parse_measurements(json.dumps(document), "x")
    assert read.seconds_per_image == told["seconds_per_image"], "the planner understands it"


def test_made_up_pictures_are_what_the_stream_gives() -> None:
    made = calibrate.made_up(config(), world(), num_classes=7)
    first, second = itertools.islice(made, 2)
    assert first.pixels.shape == (4, 3, 32, 32)
    assert first.pixels.dtype is torch.uint8
    assert first.labels.shape == first.weights.shape == (4,)
    assert first.labels.max() < 7
    assert torch.equal(first.pixels, second.pixels)


def run(tmp_path: Path, *arguments: str, cfg: TrainConfig) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RUN_CONFIG": dump(cfg)}
    command = [sys.executable, "-m", "trainer.calibrate", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_whole_calibration_writes_its_result_into_the_runs_folder(tmp_path: Path) -> None:
    cfg = config()
    data = type(cfg.data)(train="s3://synthetic/unread")
    where = type(cfg.checkpoint)(address=tmp_path.as_uri())
    answer = run(tmp_path, "--steps", "3", cfg=config(data=data, checkpoint=where))
    assert answer.returncode == 0, answer.stderr
    printed = json.loads(answer.stdout)
    assert json.loads((tmp_path / "calibration.json").read_text()) == printed
    [told] = printed["measurements"]
    assert told["num_steps"] == 3
    assert told["seconds_per_image"] > 0
    wrong = config(data=data, checkpoint=where, model=ModelConfig(name="resnet81"))
    answer = run(tmp_path, cfg=wrong)
    assert answer.returncode == 2
    assert "error: model.name is 'resnet81', but timm has no such network" in answer.stderr
