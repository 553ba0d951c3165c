"""How long one rank takes for one picture: real updates on made-up data, timed one by one.

    python -m trainer.calibrate run.yaml update.compile=true      one process
    python -m trainer.agent -m trainer.calibrate                  in a pod, the run in RUN_CONFIG

The result is one JSON document on stdout and, as calibration.json, in the run's folder;
`launcher plan --measured` reads it. An update here is one micro-batch on each rank, so the costs
of an optimiser step are spread over as few pictures as in a run on many GPUs.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import logging
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from trainer.config import ConfigError, TrainConfig, load
from trainer.data.stream import Batch, Part, Step
from trainer.exits import FATAL, USAGE, tell_reason
from trainer.learn import engine, losses, memory, models
from trainer.storage import BadAddress, open_store
from trainer.world import Watchdog, World, join

logger = logging.getLogger(__name__)

WARMUP_STEPS = 5
"""Not timed: compilation, cuDNN's choice of algorithms, the allocator's first growth."""

NUM_CLASSES = 5000
"""WebVision 2.0's, where the run leaves the number to its data."""

RESULT_KEY = "calibration.json"


def calibrate(cfg: TrainConfig, num_steps: int) -> dict[str, Any]:
    """Times `num_steps` updates; every rank must call it, each gives its own result."""
    world = join(cfg.world)
    watchdog = Watchdog(cfg.world.stall_s)
    num_classes = cfg.model.num_classes or NUM_CLASSES
    torch.manual_seed(cfg.seed)
    network = models.build(cfg.model, num_classes)
    update = memory.settle(network, cfg.update, cfg.input.size_px, world)
    cfg = dataclasses.replace(cfg, update=update)
    state = engine.build(
        network,
        world,
        losses.build(cfg.loss, even_labels(cfg, num_classes)),
        # The labels are noise: at the run's own rate the weights would soon not be finite.
        optim=dataclasses.replace(cfg.optim, lr=1e-4),
        update=cfg.update,
        input=cfg.input,
        seed=cfg.seed,
        precision=update.precision,
        layout=update.layout,
    )
    times = step_times(cfg, world, watchdog, state, num_classes, num_steps)
    return describe(cfg, world, times, update.precision, update.layout)


def even_labels(cfg: TrainConfig, num_classes: int) -> losses.Labels:
    """What a loss is told of made-up data: all classes alike."""
    batch = cfg.update.micro_batch
    return losses.Labels(torch.full((num_classes,), batch), batch, batch, batch)


def step_times(
    cfg: TrainConfig,
    world: World,
    watchdog: Watchdog,
    state: engine.State,
    num_classes: int,
    num_steps: int,
) -> list[float]:
    """Seconds of each timed update, the device's work included."""
    batch = cfg.update.micro_batch * world.size
    times = []
    made = made_up(cfg, world, num_classes)
    for number in range(WARMUP_STEPS + num_steps):
        wait(world.device)
        began = time.perf_counter()
        engine.update(
            cfg.update,
            cfg.optim,
            state,
            Step(0, number * batch, (number + 1) * batch, (), 1),
            made,
            ema_half_life_samples=1000.0 * batch,
            ask=partial(world.ask, False),
        )
        world.agree()
        wait(world.device)
        times.append(time.perf_counter() - began)
        watchdog.beat()
    return times[WARMUP_STEPS:]


def made_up(cfg: TrainConfig, world: World, num_classes: int) -> Iterator[Batch]:
    """The same noise again and again, as the stream would give it: uint8, pinned for a GPU."""
    count, side = cfg.update.micro_batch, cfg.input.size_px
    noise = torch.Generator().manual_seed(world.rank)
    batch = Batch(
        Part(Step(0, 0, count * world.size, (), 1), ()),
        torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=noise),
        torch.randint(0, num_classes, (count,), generator=noise),
        torch.ones(count),
    )
    return itertools.repeat(batch.pin_memory() if world.device.type == "cuda" else batch)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(
    cfg: TrainConfig, world: World, times: Sequence[float], precision: str, layout: str
) -> dict[str, Any]:
    """The document: seconds a picture of one rank, their spread, and what was timed."""
    cuda = world.device.type == "cuda"
    low, *_, high = statistics.quantiles(times, n=10)
    median = statistics.median(times)
    measurement = {
        "model": cfg.model.name,
        "gpu_type": torch.cuda.get_device_name(world.device) if cuda else "cpu",
        "precision": precision,
        "size_px": cfg.input.size_px,
        "seconds_per_image": median / cfg.update.micro_batch,
        "spread_ratio": (high - low) / 2 / median,
        "layout": layout,
        "compile": cfg.update.compile,
        "micro_batch": cfg.update.micro_batch,
        "grad_checkpointing": cfg.update.grad_checkpointing == "always",
        "num_ranks": world.size,
        "num_steps": len(times),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(world.device) if cuda else None,
        "torch": str(torch.__version__),
    }
    return {"schemaVersion": 1, "measurements": [measurement]}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line: options of its own, then a run file and overrides as trainer.train's."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.calibrate", description="Times the training of one network."
    )
    parser.add_argument("--steps", type=int, default=30, help="timed updates, at least 3")
    parser.add_argument("--no-store", action="store_true", help="print the result, keep it nowhere")
    parser.add_argument("run", nargs="*", help="run file, then overrides as update.compile=true")
    given = parser.parse_args(arguments)
    if given.steps < 3:
        parser.error(f"--steps is {given.steps}, but a median and its spread need at least 3")
    return given


def main() -> None:
    """Reads the run, measures, and tells; exit status 2 is for what starting again cannot cure."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S"
    )
    given = parse(sys.argv[1:])
    words = list(given.run)
    path = words.pop(0) if words and "=" not in words[0] else None
    try:
        cfg = load(TrainConfig, path, words)
        result = calibrate(cfg, given.steps)
        text = json.dumps(result)
        if torch.distributed.get_rank() == 0:
            print(text, flush=True)
            if not given.no_store:
                open_store(cfg.checkpoint.address).put(RESULT_KEY, text.encode())
    except (ConfigError, BadAddress) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        tell_reason(f"{FATAL}{error}")
        sys.exit(USAGE)
    except Exception as error:
        tell_reason(f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
