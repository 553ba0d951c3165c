"""What an update leaves to the device: how many pictures a pass takes, and how it computes them.

A micro-batch that a GPU has no memory for is halved until it has, by trying. The global batch and
each sample's weight in it stay, so an update is the same but for rounding, and but for batch
norms, whose statistics are a micro-batch's.
"""

from __future__ import annotations

import copy
import gc
import json
import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from trainer.config import ConfigError, UpdateConfig
from trainer.learn import fastest
from trainer.learn.engine import autocast
from trainer.learn.placement import memory_format, placed
from trainer.learn.recompute import blocks, recompute
from trainer.world import World

logger = logging.getLogger(__name__)

CPU_MOST = 32
"""A micro-batch of 0 means at most this on CPUs: more is no faster there."""

COPIES = 3
"""Of the weights beside the network and its gradients: momenta, averages, and a teacher or the
weights that an evaluation puts aside."""

RESERVE_RATIO = 0.05
"""Of a GPU's memory, for what a trial step does not show: NCCL, losses, holes between tensors."""

RECOMPUTE_BELOW = 0.25
"""A smaller share of the wanted micro-batch costs more than computing blocks twice, about 1.3."""


def settle(
    network: nn.Module,
    config: UpdateConfig,
    size_px: int,
    world: World,
    kept: tuple[str, str] | None = None,
) -> UpdateConfig:
    """The update with nothing left to choose: precision, layout, micro-batch, recomputation.

    kept: precision and layout of the checkpoint that the run goes on from.
    Every rank must call it, and all get the same. Works on copies of the network and draws from
    generators of its own. Raises ConfigError where not one picture fits.
    """
    if kept is None:
        kept = config.precision, config.layout
        if "auto" in kept:
            kept = _fastest(network, config, size_px, world)
    precision, layout = kept
    known = replace(config, precision=precision, layout=layout)  # type: ignore[arg-type]
    return fit(network, known, size_px, world)


def _fastest(
    network: nn.Module, config: UpdateConfig, size_px: int, world: World
) -> tuple[str, str]:
    """Precision and layout by timing on rank 0, of a micro-batch that fits in all of them."""
    # fp32 takes the most memory.
    hungry = "fp32" if config.precision == "auto" else config.precision
    like = "nchw" if config.layout == "auto" else config.layout
    fitted = fit(network, replace(config, precision=hungry, layout=like), size_px, world)
    message = b""
    if world.rank == 0:
        timed = copy.deepcopy(network)
        if fitted.grad_checkpointing == "always":
            recompute(timed)
        sized = replace(config, micro_batch=fitted.micro_batch)
        message = json.dumps(fastest.choose(timed, sized, size_px, world.device)).encode()
    precision, layout = json.loads(world.broadcast(message))
    return precision, layout


def fit(network: nn.Module, config: UpdateConfig, size_px: int, world: World) -> UpdateConfig:
    """The update with a micro-batch that fits, and gradient checkpointing always or never.

    config: precision and layout are not auto. On CPUs nothing is tried.
    """
    wanted = wanted_micro_batch(config, world)
    if world.device.type == "cuda":
        return search(network, replace(config, micro_batch=wanted), size_px, world)
    return _chosen(config, wanted, config.grad_checkpointing == "always")


def wanted_micro_batch(config: UpdateConfig, world: World) -> int:
    """The configured one; for 0 a rank's share of the global batch, on CPUs at most CPU_MOST."""
    share = -(-config.global_batch // world.size)
    most = share if world.device.type == "cuda" else CPU_MOST
    return config.micro_batch or min(share, most)


def _chosen(config: UpdateConfig, micro_batch: int, recomputed: bool) -> UpdateConfig:
    return replace(
        config, micro_batch=micro_batch, grad_checkpointing="always" if recomputed else "never"
    )


def search(network: nn.Module, config: UpdateConfig, size_px: int, world: World) -> UpdateConfig:
    """As `fit`, by trial steps on every rank's device: the micro-batch that fits on all of them.

    Where gradient checkpointing is auto, it is done if less than RECOMPUTE_BELOW of the wanted
    micro-batch fits without it, and more with it.
    """
    wanted = config.micro_batch

    def most(recomputed: bool) -> int:
        def fits(micro_batch: int) -> bool:
            fitting = trial(network, config, micro_batch, size_px, world.device, recomputed)
            if not fitting:
                logger.info(
                    "a micro-batch of %d does not fit into the memory%s",
                    micro_batch,
                    " with gradient checkpointing" if recomputed else "",
                )
            return fitting

        return _least(largest(wanted, fits), world)

    plain = most(False) if config.grad_checkpointing != "always" else 0
    recomputed = 0
    if config.grad_checkpointing == "always" or (
        config.grad_checkpointing == "auto" and plain < RECOMPUTE_BELOW * wanted and blocks(network)
    ):
        recomputed = most(True)
    micro_batch = max(plain, recomputed)
    if not micro_batch:
        never = config.grad_checkpointing == "never"
        raise ConfigError(
            f"not one picture of {size_px} px (input.size_px) fits into the memory of"
            f" {_named(world.device)} in {config.precision}; use a GPU with more"
            + (", or set update.grad_checkpointing to auto" if never else " or smaller pictures")
        )
    chosen = _chosen(config, micro_batch, recomputed > plain)
    if (micro_batch, chosen.grad_checkpointing) != (wanted, "never"):
        logger.info(
            "taking micro-batches of %d of the wanted %d, %s gradient checkpointing",
            micro_batch,
            wanted,
            "with" if recomputed > plain else "without",
        )
    return chosen


def largest(wanted: int, fits: Callable[[int], bool]) -> int:
    """The first of wanted, its half, its quarter ... that fits, halves rounded up; 0 for none."""
    size = wanted
    while not fits(size):
        if size == 1:
            return 0
        size = -(-size // 2)
    return size


def _least(value: int, world: World) -> int:
    """The least of all ranks' values."""
    values = torch.zeros(world.size, dtype=torch.float64)
    values[world.rank] = value
    return int(world.sum(values).min())


def trial(
    network: nn.Module,
    config: UpdateConfig,
    micro_batch: int,
    size_px: int,
    device: torch.device,
    recomputed: bool,
) -> bool:
    """Whether a forward and backward pass of so many pictures fits beside what training keeps."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            _step(network, config, micro_batch, size_px, device, recomputed)
        except torch.OutOfMemoryError:
            fits = False
        except RuntimeError as error:
            if "ALLOC_FAILED" not in str(error):  # cuDNN's and cuBLAS' own words for it
                raise
            fits = False
        else:
            fits = True
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return fits


def _step(
    network: nn.Module,
    config: UpdateConfig,
    micro_batch: int,
    size_px: int,
    device: torch.device,
    recomputed: bool,
) -> None:
    copied = copy.deepcopy(network)
    if recomputed:
        recompute(copied)
    copied = placed(copied, device, config.layout).train()
    weights_bytes = sum(value.nbytes for value in copied.state_dict().values())
    spare_bytes = COPIES * weights_bytes
    if device.type == "cuda":
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        spare_bytes += int(RESERVE_RATIO * total_bytes)
    spare = torch.empty(spare_bytes, dtype=torch.uint8, device=device)
    pixels = torch.zeros(micro_batch, 3, size_px, size_px, device=device)
    pixels = pixels.to(memory_format=memory_format(config.layout))
    with autocast(config.precision, device):
        loss = copied(pixels).float().square().mean()
    loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    del spare  # not before the end


def _named(device: torch.device) -> str:
    if device.type != "cuda":
        return f"the {device.type}"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB)"
