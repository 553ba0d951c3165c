"""Seconds and memory of one training step of each of the seven networks, ours and plain torch's.

Two pictures of the recipe's size, 5,000 classes, float32 on one CPU thread, each network in a
process of its own: seconds are the processor's, whatever else runs on the machine, and memory is
the whole process' at its peak, of which torch itself takes 0.3 GB. The peer is the step
that a script does without a library: forward, cross entropy, backward, torch.optim.SGD. Ours is
trainer's update: it also averages the weights, which takes one more copy of them, puts statistics
and a non-finite gradient aside, and counts. Then ours with the blocks computed again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import nn

from tests.benchmarks.table import Row
from trainer import calibrate
from trainer.config import (
    InputConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    UpdateConfig,
    WorldConfig,
)
from trainer.data.stream import Step
from trainer.learn import engine, losses, models
from trainer.world import join

JOBS = Path(__file__).parents[2] / "launcher" / "jobs"
NETWORKS = (
    "senet154",
    "resnext152d_32x4d",
    "inception_resnet_v2",
    "dpn98",
    "seresnet152",
    "nasnetalarge",
    "pnasnet5large",
)
BATCH, NUM_CLASSES = 2, 5000
STEPS = 3
"""Timed, after one to warm up; the faster counts."""

WAYS = ("plain", "ours", "recomputed")

Figures = dict[str, float]
"""step_s and peak_mb."""


def measure() -> list[Row]:
    """Rows of each network: seconds, memory, and both with the blocks computed again."""
    rows = []
    for name in NETWORKS:
        plain, ours, again = (in_process(name, way) for way in WAYS)
        for key, unit, title in (("step_s", "s", "step"), ("peak_mb", "MB", "memory")):
            what = f"{name} {size_px(name)} px, {title}"
            rows.append(Row(what, unit, "plain torch", plain[key], ours[key], ""))
            rows.append(Row(f"{what}, recomputed", unit, "ours", ours[key], again[key], ""))
    return rows


def in_process(name: str, way: str) -> Figures:
    """The figures of one network in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_networks", name, way]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: Figures = json.loads(answer.stdout.splitlines()[-1])
    print(f"{name} {way}: {figures['step_s']:.1f} s, {figures['peak_mb']:.0f} MB", flush=True)
    return figures


def size_px(name: str) -> int:
    """The side of the recipe's pictures."""
    job = yaml.safe_load((JOBS / f"{name}.yaml").read_text(encoding="utf-8"))
    return int(job["run"]["input"]["size_px"])


def plain_step(network: nn.Module, side: int) -> Callable[[], None]:
    """Forward, backward and an optimiser's step as torch has them."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    pixels = torch.randn(BATCH, 3, side, side)
    labels = torch.arange(BATCH)

    def step() -> None:
        nn.functional.cross_entropy(network(pixels), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def our_step(network: nn.Module, side: int, recomputed: bool) -> Callable[[], None]:
    """trainer's update, in a group of one."""
    update = UpdateConfig(
        global_batch=BATCH,
        micro_batch=BATCH,
        precision="fp32",
        layout="nchw",
        grad_checkpointing="always" if recomputed else "never",
    )
    cfg = TrainConfig(input=InputConfig(size_px=side), update=update, optim=OptimConfig(lr=1e-4))
    world = join(WorldConfig())
    state = engine.build(
        network,
        world,
        losses.build(LossConfig(), calibrate.even_labels(cfg, NUM_CLASSES)),
        optim=cfg.optim,
        update=update,
        input=cfg.input,
        seed=0,
        precision="fp32",
        layout="nchw",
    )
    batches = calibrate.made_up(cfg, world, NUM_CLASSES)

    def step() -> None:
        engine.update(
            update,
            cfg.optim,
            state,
            Step(0, state.seen, state.seen + BATCH, (), 1),
            batches,
            ema_half_life_samples=1000.0,
            ask=lambda: None,
        )

    return step


def peak_mb() -> float:
    """The most memory of this process so far; getrusage would count its parent's too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    raise OSError("/proc/self/status has no VmHWM")


def main(name: str, way: str) -> None:
    """Prints the figures of one network as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = models.build(ModelConfig(name=name), NUM_CLASSES)
    side = size_px(name)
    step = (
        plain_step(network, side)
        if way == "plain"
        else our_step(network, side, recomputed=way == "recomputed")
    )
    times_s = []
    for _ in range(1 + STEPS):
        began_s = time.process_time()
        step()
        times_s.append(time.process_time() - began_s)
    print(json.dumps({"step_s": min(times_s[1:]), "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
