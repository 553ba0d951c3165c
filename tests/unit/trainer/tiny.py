"""A tiny run, update by update, for tests of what a run's state does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from tests.unit.trainer.shards import write_shards
from trainer import train
from trainer.config import TrainConfig, WorldConfig, parse
from trainer.data import stream
from trainer.learn import engine, losses, models
from trainer.learn.margins import Margins
from trainer.learn.schedule import learning_rate
from trainer.learn.teachers import Teacher
from trainer.world import World

ONE_THREAD = WorldConfig(threads=1)
RUN = """
seed: 0
epochs: 10
model: {name: resnet18, width: 0.125, stem: small}
input: {size_px: 24}
data: {lanes: 4, window: 4, loader_processes: 0}
update: {global_batch: 8, micro_batch: 4, mixup: 0.2, label_smoothing: 0.1}
optim: {lr: 0.01, warmup_epochs: 1}
"""


@dataclass
class TinyRun:
    """Twenty pictures in three classes, 3 updates an epoch; always the same for one `overrides`."""

    world: World
    folder: Path
    overrides: Sequence[str] = ()
    cfg: TrainConfig = field(init=False)
    data: train.Data = field(init=False)
    state: engine.State = field(init=False)

    def __post_init__(self) -> None:
        shards = self.folder / "data"
        address = str(shards) if shards.exists() else write_shards(shards, count=20)
        places = [f"data.train={address}", f"checkpoint.address={self.folder}"]
        self.cfg = parse(TrainConfig, RUN, [*places, *self.overrides], source="here")
        self.data = train.open_data(self.cfg)
        torch.manual_seed(self.cfg.seed + 1)
        other = models.build(self.cfg.model, self.data.num_classes)
        torch.manual_seed(self.cfg.seed)
        self.state = engine.build(
            models.build(self.cfg.model, self.data.num_classes),
            self.world,
            losses.build(self.cfg.loss, self.data.labels),
            optim=self.cfg.optim,
            update=self.cfg.update,
            input=self.cfg.input,
            seed=self.cfg.seed,
            precision="fp32",
            layout="nchw",
            teacher=Teacher.frozen(other, self.world.device, "nchw", self.cfg.input)
            if self.cfg.loss.self_label.teacher == "checkpoint"
            else None,
            margins=Margins(self.data.train.num_samples) if self.cfg.log.margins else None,
        )

    def updates(self, num_updates: int) -> Iterator[float]:
        """Goes on with so many updates; the mean loss of each."""
        for step, parts in islice(self.steps(), num_updates):
            self.update(step, parts)
            read = self.state.counters.read()
            yield read["loss"] / read["weight"]

    def steps(self) -> Iterator[tuple[stream.Step, Iterator[stream.Batch]]]:
        """What comes next, step by step."""
        batches = train.training_batches(self.cfg, self.world, self.data, self.state.seen)
        return stream.steps_of(batches)

    def update(self, step: stream.Step, parts: Iterator[stream.Batch]) -> None:
        """One update at the schedule's rate."""
        cfg, state, data = self.cfg, self.state, self.data
        state.mover.set_rate(learning_rate(cfg.optim, state.seen, data.goal, data.num_samples))
        engine.update(
            cfg.update, cfg.optim, state, step, parts, ema_half_life_samples=10.0, ask=lambda: None
        )
