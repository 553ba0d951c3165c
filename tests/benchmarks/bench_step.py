"""One update of ours against timm's own training step: same network, batch, precision and data.

The peer is built from timm's public parts as its training script does: create_optimizer_v2 with
the script's defaults, label smoothing, ModelEmaV3, autocast, `loss.item()` at each step. It is
given its pictures normalised already; ours normalises them in the update, as in a run. First as
the script comes (contiguous, eager) against ours with the layout that it finds the faster, then
both with channels last and compiled. Steps of both are taken in turn; a row is the median of
pairs. Precision is what `auto` finds the faster. Networks, batch, pairs: STEP_NETWORKS,
STEP_BATCH, STEP_PAIRS.

On a GPU the networks are large ones at their own sizes, a pair is of ten steps, between which
nobody waits for the device, and ours has a row beside the limit of that GPU (limits.py).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat

import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, ModelEmaV3
from torch import Tensor, nn

from launcher.plan.networks import packaged_networks
from tests.benchmarks.limits import TRAINING, limit
from tests.benchmarks.table import Row
from trainer.config import InputConfig, ModelConfig, OptimConfig, UpdateConfig, WorldConfig
from trainer.data.stream import Batch, Part, Step
from trainer.learn import engine, fastest, losses, models
from trainer.world import World, join

ON_GPU = torch.cuda.is_available()
DEFAULT = "senet154,resnext152d_32x4d,nasnetalarge" if ON_GPU else "resnet50,seresnext50_32x4d"
NETWORKS = os.environ.get("STEP_NETWORKS", DEFAULT).split(",")
BATCH = int(os.environ.get("STEP_BATCH", "64" if ON_GPU else "32"))
PAIRS = int(os.environ.get("STEP_PAIRS", "7"))
COMPILED = os.environ.get("STEP_COMPILED", "1") == "1"
STEPS = 10 if ON_GPU else 1
"""Of a timing: a host that waits after each is not what a run does."""
CLASSES = 1000
SMOOTHING = 0.1
TARGET = ">= 1.2"
LIMIT_TARGETS = {"senet154": ">= 0.6", "resnext152d_32x4d": ">= 0.7", "nasnetalarge": ">= 0.6"}

Update = Callable[[], None]


def measure() -> list[Row]:
    """Rows for each network, eager and compiled."""
    world = join(WorldConfig())
    return [row for name in NETWORKS for row in rows_of(name, world)]


def rows_of(name: str, world: World) -> Iterator[Row]:
    size_px = side(name)
    precision, layout = fastest.choose(
        network(name), UpdateConfig(micro_batch=BATCH), size_px, world.device
    )
    best = 0.0
    for compiled in (False, True) if COMPILED else (False,):
        theirs = timm_step(name, world, precision, compiled)
        ours = our_step(name, world, precision, layout, compiled)
        peer_s, our_s = in_turn(theirs, ours, world.device)
        peer = "timm, channels_last, compiled" if compiled else "timm, its defaults"
        told = f"{precision} {layout}" + (", compiled" if compiled else "")
        what = f"{name} {size_px} px, batch {BATCH}: ours {told}"
        target = "" if compiled else TARGET
        yield Row(what, "img/s", peer, BATCH / peer_s, BATCH / our_s, target, more_is_better=True)
        best = max(best, BATCH / our_s)
    most = limit(name, TRAINING)
    if most:
        what = f"{name} {size_px} px, batch {BATCH}: ours at its best"
        gpu, target = torch.cuda.get_device_name(), LIMIT_TARGETS.get(name, "")
        yield Row(what, "img/s", f"fitted limit of {gpu}", most, best, target, more_is_better=True)


def side(name: str) -> int:
    """Of its input, px."""
    known = packaged_networks().get(name)
    return known.size_px if known else 224


def network(name: str) -> nn.Module:
    """The same weights for both."""
    torch.manual_seed(0)
    return models.build(ModelConfig(name=name), CLASSES)


def data(size_px: int) -> tuple[Tensor, Tensor]:
    """Pictures as bytes, and labels."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (BATCH, 3, size_px, size_px), dtype=torch.uint8, generator=draw)
    return pixels, torch.randint(0, CLASSES, (BATCH,), generator=draw)


def timm_step(name: str, world: World, precision: str, tuned: bool) -> Update:
    """timm's step; tuned: channels last and compiled."""
    device = world.device
    model = network(name).to(device)
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=2e-5, momentum=0.9)
    ema = ModelEmaV3(model, decay=0.9998)
    called = torch.compile(model) if tuned else model
    loss_of = LabelSmoothingCrossEntropy(SMOOTHING)
    pixels, labels = data(side(name))
    memory = torch.channels_last if tuned else torch.contiguous_format
    ready = engine.normalise(pixels, InputConfig(), device, "nhwc" if tuned else "nchw")
    ready, target = ready.to(memory_format=memory), labels.to(device)
    mean_loss = AverageMeter()
    called.train()
    count = 0

    def step() -> None:
        nonlocal count
        with engine.autocast(precision, device):
            output = called(ready)
            loss = loss_of(output, target)
        loss.backward()
        optimizer.step()
        mean_loss.update(loss.item(), BATCH)
        optimizer.zero_grad()
        count += 1
        ema.update(model, step=count)

    return step


def our_step(name: str, world: World, precision: str, layout: str, compiled: bool) -> Update:
    """One update of the engine, with all that it counts and agrees on."""
    config = UpdateConfig(
        global_batch=BATCH,
        micro_batch=BATCH,
        mixup=0.0,
        label_smoothing=SMOOTHING,
        compile=compiled,
        grad_checkpointing="never",
    )
    optim = OptimConfig(lr=0.1, weight_decay=2e-5)
    state = engine.build(
        network(name),
        world,
        losses.CrossEntropy(),
        optim=optim,
        update=config,
        input=InputConfig(),
        seed=0,
        precision=precision,
        layout=layout,
    )
    pixels, labels = data(side(name))
    part = Part(Step(0, 0, BATCH, (), 1), tuple(range(BATCH)))
    batch = Batch(part, pixels, labels, torch.ones(BATCH))
    if world.device.type == "cuda":
        batch = batch.pin_memory()
    batches: Iterator[Batch] = repeat(batch)

    def step() -> None:
        engine.update(
            config,
            optim,
            state,
            replace(part.step, start=state.seen, stop=state.seen + BATCH),
            batches,
            ema_half_life_samples=BATCH * 1000.0,
            ask=lambda: world.ask(False),
        )
        world.agree()

    return step


def in_turn(theirs: Update, ours: Update, device: torch.device) -> tuple[float, float]:
    """Median seconds of a step of each, taken in turn after two to warm up."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(PAIRS + 2):
        for kept, step in zip(times, (theirs, ours), strict=True):
            took_s = timed(step, device)
            if number >= 2:
                kept.append(took_s)
    return statistics.median(times[0]), statistics.median(times[1])


def timed(step: Update, device: torch.device) -> float:
    """Seconds of one step, the device's work included."""
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / STEPS
