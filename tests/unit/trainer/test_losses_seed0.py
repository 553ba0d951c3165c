"""Proof of value: the first losses of a tiny run are pinned, so a refactor may not move them.

`python -m tests.unit.trainer.test_losses_seed0` writes them anew, after a change that is meant to.
"""

from __future__ import annotations

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
from trainer.learn import engine, models
from trainer.learn.schedule import learning_rate
from trainer.world import World, join

PINNED = Path(__file__).with_name("losses_seed0.txt")
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
ONE_THREAD = WorldConfig(threads=1)


@pytest.fixture
def world() -> Iterator[World]:
    yield join(ONE_THREAD)
    dist.destroy_process_group()


def losses(world: World, folder: Path) -> list[float]:
    """Mean loss of each of the first updates."""
    places = [
        f"data.train={write_shards(folder / 'data', count=18)}",
        f"checkpoint.address={folder}",
    ]
    cfg = parse(TrainConfig, RUN, places, source="here")
    data = train.open_data(cfg)
    torch.manual_seed(cfg.seed)
    state = engine.build(
        models.build(cfg.model, data.num_classes),
        world,
        optim=cfg.optim,
        update=cfg.update,
        input=cfg.input,
        seed=cfg.seed,
        precision="fp32",
        layout="nchw",
    )
    found: list[float] = []
    for step, batches in stream.steps_of(train.training_batches(cfg, world, data, 0)):
        lr = learning_rate(cfg.optim, state.seen, data.goal, data.num_samples)
        train.set_rate(state.optimizer, lr)
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


def test_the_first_losses_have_not_moved(world: World, tmp_path: Path) -> None:
    pinned = [float(line) for line in PINNED.read_text().splitlines()]
    assert losses(world, tmp_path) == pytest.approx(pinned, rel=1e-5)
    assert len(pinned) == UPDATES


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = losses(join(ONE_THREAD), Path(folder))
    PINNED.write_text("".join(f"{loss:.7f}\n" for loss in made))
