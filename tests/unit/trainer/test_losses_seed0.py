"""Proof of value: the first losses of a tiny run are pinned, so a refactor may not move them.

`python -m tests.unit.trainer.test_losses_seed0` writes them anew, after a change that is meant to.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.unit.trainer.shards import write_shards
from trainer import train
from trainer.config import TrainConfig, WorldConfig, parse
from trainer.data import stream
from trainer.learn import engine, losses, models, optimizer
from trainer.learn.schedule import learning_rate
from trainer.learn.teachers import Teacher
from trainer.world import World, join

PINNED = Path(__file__).with_name("losses_seed0.json")
UPDATES = 20
RUN = """
seed: 0
epochs: 10
model: {name: resnet18, width: 0.125, stem: small}
input: {size_px: 24}
data: {lanes: 4, window: 4, loader_processes: 0}
update: {global_batch: 8, micro_batch: 4, mixup: 0.2, label_smoothing: 0.1}
optim: {lr: 0.01, warmup_epochs: 1}
"""
SELF_LABEL = ["loss.name=self_label", "loss.self_label.start_ratio=0.1"]
RUNS = {
    "tiny run": [],
    "binary_cross_entropy": ["loss.name=binary_cross_entropy", "optim.lr=0.001"],
    "focal": ["loss.name=focal"],
    "focal, sigmoid": ["loss.name=focal", "loss.focal.form=sigmoid"],
    "ghm": ["loss.name=ghm"],
    "ghm, sigmoid": ["loss.name=ghm", "loss.ghm.form=sigmoid", "optim.lr=0.001"],
    "gce": ["loss.name=gce"],
    "sce": ["loss.name=sce"],
    "bootstrap": ["loss.name=bootstrap"],
    "bootstrap, soft": ["loss.name=bootstrap", "loss.bootstrap.form=soft"],
    "elr": ["loss.name=elr"],
    "self_label, frozen": SELF_LABEL,
    "self_label, ema": [*SELF_LABEL, "loss.self_label.teacher=ema"],
    "self_label, self": [*SELF_LABEL, "loss.self_label.teacher=self"],
    "inverse_frequency": ["loss.balance.kind=inverse_frequency"],
    "logit_adjustment": ["loss.balance.kind=logit_adjustment", "loss.balance.tau=0.5"],
    "balanced_softmax": ["loss.balance.kind=balanced_softmax"],
    "cutmix": ["update.cutmix=1.0"],
}
ONE_THREAD = WorldConfig(threads=1)


@pytest.fixture
def world() -> Iterator[World]:
    yield join(ONE_THREAD)
    dist.destroy_process_group()


def first_losses(world: World, folder: Path, overrides: list[str]) -> list[float]:
    """Mean loss of each of the first updates."""
    places = [
        f"data.train={write_shards(folder / 'data', count=20)}",
        f"checkpoint.address={folder}",
    ]
    cfg = parse(TrainConfig, RUN, places + overrides, source="here")
    data = train.open_data(cfg)
    torch.manual_seed(cfg.seed + 1)
    other = models.build(cfg.model, data.num_classes)
    torch.manual_seed(cfg.seed)
    state = engine.build(
        models.build(cfg.model, data.num_classes),
        world,
        losses.build(cfg.loss, data.labels),
        optim=cfg.optim,
        update=cfg.update,
        input=cfg.input,
        seed=cfg.seed,
        precision="fp32",
        layout="nchw",
        teacher=Teacher.frozen(other, world.device, "nchw", cfg.input)
        if cfg.loss.self_label.teacher == "checkpoint"
        else None,
    )
    found: list[float] = []
    for step, batches in stream.steps_of(train.training_batches(cfg, world, data, 0)):
        lr = learning_rate(cfg.optim, state.seen, data.goal, data.num_samples)
        optimizer.set_rate(state.optimizer, lr)
        engine.update(
            cfg.update,
            cfg.optim,
            state,
            step,
            batches,
            ema_half_life_samples=10.0,
            ask=lambda: None,
        )
        read = state.counters.read()
        found.append(read["loss"] / read["weight"])
        if len(found) == UPDATES:
            break
    return found


@pytest.mark.parametrize("name", RUNS)
def test_the_first_losses_have_not_moved(world: World, tmp_path: Path, name: str) -> None:
    pinned = json.loads(PINNED.read_text())[name]
    assert first_losses(world, tmp_path, RUNS[name]) == pytest.approx(pinned, rel=1e-5)
    assert len(pinned) == UPDATES


def test_each_run_has_losses_of_its_own() -> None:
    pinned = json.loads(PINNED.read_text())
    assert pinned.keys() == RUNS.keys()
    assert len({tuple(each) for each in pinned.values()}) == len(RUNS)


if __name__ == "__main__":
    alone = join(ONE_THREAD)
    made = {}
    for key, told in RUNS.items():
        with tempfile.TemporaryDirectory() as scratch:
            made[key] = [round(loss, 7) for loss in first_losses(alone, Path(scratch), told)]
    PINNED.write_text(json.dumps(made, indent=1) + "\n")
