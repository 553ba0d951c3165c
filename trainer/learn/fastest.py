"""Precision and memory layout by timing: which of them is faster differs by network and device.

SENet-154 loses 35 % with channels last where ResNets gain, and bf16 is eleven times slower on
CPUs without it; so `auto` is measured, by rank 0, and kept for the whole run.
"""

from __future__ import annotations

import copy
import logging
import time
from itertools import product

import torch
from torch import nn

from trainer.config import UpdateConfig
from trainer.learn.engine import autocast
from trainer.learn.placement import has_bf16, memory_format, placed

logger = logging.getLogger(__name__)


def choose(
    network: nn.Module, config: UpdateConfig, size_px: int, device: torch.device
) -> tuple[str, str]:
    """Precision and layout of the run: those configured, `auto` by the time of two steps each."""
    candidates = ways(config.precision, config.layout, device)
    if len(candidates) == 1:
        return candidates[0]
    times = {
        candidate: step_s(network, config.micro_batch, size_px, device, *candidate)
        for candidate in candidates
    }
    told = ", ".join(f"{p} {lay} {1000 * s:.0f} ms" for (p, lay), s in times.items())
    best = min(times, key=lambda candidate: times[candidate])
    logger.info("a step of %d takes: %s; taking %s %s", config.micro_batch, told, *best)
    return best


def ways(precision: str, layout: str, device: torch.device) -> list[tuple[str, str]]:
    """Pairs of precision and layout; `auto` stands for all that may be the fastest."""
    precisions, layouts = [precision], [layout]
    if precision == "auto":
        precisions = ["fp32", "bf16"] if has_bf16(device) else ["fp32"]
    if layout == "auto":
        layouts = ["nchw", "nhwc"]
    return list(product(precisions, layouts))


def step_s(
    network: nn.Module,
    micro_batch: int,
    size_px: int,
    device: torch.device,
    precision: str,
    layout: str,
) -> float:
    """Seconds of forward and backward of one micro-batch: the faster of two, after one to warm up.

    Works on a copy and draws from a generator of its own, so the run is as if nothing was timed.
    """
    trial = placed(copy.deepcopy(network), device, layout).train()
    pixels = torch.zeros(micro_batch, 3, size_px, size_px, device=device)
    pixels = pixels.normal_(generator=torch.Generator(device).manual_seed(0)).to(
        memory_format=memory_format(layout)
    )
    best = float("inf")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for attempt in range(3):
            _wait(device)
            began = time.perf_counter()
            with autocast(precision, device):
                loss = trial(pixels).float().square().mean()
            loss.backward()
            _wait(device)
            if attempt:
                best = min(best, time.perf_counter() - began)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
