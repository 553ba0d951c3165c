"""A network's answers about views, as fast as they can be had: layout, bf16, compiled and frozen.

Letters: n views, s their side, K classes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import ConfigError, EnsembleConfig, InputConfig
from trainer.infer.quantise import check_int8, quantised
from trainer.learn.engine import autocast, normalise
from trainer.learn.fastest import ways
from trainer.learn.frozen import frozen
from trainer.learn.placement import has_compiler, placed

logger = logging.getLogger(__name__)

COMPILE_LEAST_S = 120.0
"""Seconds of work from which compiling pays: it takes a quarter of a minute to a minute."""
FIRST_BATCH = 16
CPU_BATCHES = (8, 16, 32)
"""More leave the cache: on CPUs a pass of 40 takes longer per view than one of 10."""
GPU_BATCHES = (32, 64, 128, 256)
"""No more than a group has views: a compiled pass that is not full is filled up."""
Calibration = Callable[[int], Tensor]
"""Gives (n, 3, s, s) uint8 views of a side, which ranges of int8 are measured on."""


@dataclass(frozen=True)
class Manner:
    """How a network is asked. Numbers differ in their last digits from one manner to another."""

    precision: str
    layout: str
    compiled: str
    """off, inductor or tensorrt."""
    batch: int
    """Views of a forward pass."""

    @property
    def fixed(self) -> bool:
        """Whether passes must be of the same size: another one is another compiling."""
        return self.compiled != "off" or self.precision == "int8"


class Forward:
    """A network on its device, asked in one manner."""

    def __init__(
        self,
        network: nn.Module,
        input: InputConfig,
        manner: Manner,
        device: torch.device,
        calibration: Calibration | None = None,
    ) -> None:
        """calibration: needed for int8."""
        self.input, self.manner, self.device = input, manner, device
        self.network = placed(network, device, manner.layout).eval()
        self._calibration = calibration
        self._runs: dict[int, Any] = {}
        """By side: exported and compiled code is for one."""

    @torch.no_grad()
    def __call__(self, views: Tensor, *, mirrored: bool = False) -> Tensor:
        """(n, K) float32 logits on the device. views: (n, 3, s, s) uint8."""
        passes = torch.split(views, self.manner.batch)
        return torch.cat([self._pass(each, mirrored) for each in passes])

    def _pass(self, views: Tensor, mirrored: bool) -> Tensor:
        rows = len(views)
        if self.manner.fixed and rows < self.manner.batch:
            views = torch.cat([views, views[-1:].expand(self.manner.batch - rows, -1, -1, -1)])
        views = views.to(self.device, non_blocking=True)
        if mirrored:
            views = views.flip(-1)
        pixels = normalise(views, self.input, self.device, self.manner.layout)
        with autocast(self.manner.precision, self.device):
            logits: Tensor = self._run_of(pixels.shape[-1])(pixels)
        return logits[:rows].float()

    def _run_of(self, side_px: int) -> Any:
        if side_px not in self._runs:
            run = self.network
            if self.manner.precision == "int8":
                assert self._calibration is not None
                views = self._calibration(side_px)
                views = views.repeat(-(-self.manner.batch // len(views)), 1, 1, 1)
                whole = len(views) // self.manner.batch * self.manner.batch
                pixels = normalise(views[:whole], self.input, self.device, "nchw")
                run = quantised(run, pixels, self.manner.batch)
            self._runs[side_px] = compiled(run, self.manner.compiled)
        return self._runs[side_px]


def compiled(network: nn.Module, by: str) -> Any:
    """The network by a compiler, for views of one shape.

    by: off, inductor or tensorrt.
    """
    if by == "off":
        return network
    if by == "tensorrt":
        return torch.compile(network, dynamic=False, backend="tensorrt")
    return frozen(network, dynamic=False)


def choose(
    network: nn.Module,
    input: InputConfig,
    config: EnsembleConfig,
    side_px: int,
    num_views: int,
    device: torch.device,
) -> Manner:
    """The fastest manner that the configuration allows, by timing. num_views: to be asked about.

    Raises ConfigError where a device or a package is missing.
    """
    by = {"on": "inductor", "tensorrt": "tensorrt"}.get(config.compile, "off")
    _check_compiler(config.compile, device)
    if config.precision == "int8":  # slow to prepare and never compared: nobody asks by chance
        check_int8(device)
        by = "inductor" if config.compile == "auto" and has_compiler(device) else by
        return Manner("int8", "nchw", by, config.batch or FIRST_BATCH)
    views = torch.randint(256, (FIRST_BATCH, 3, side_px, side_px), dtype=torch.uint8)
    pairs = ways(config.precision, config.layout, device)
    candidates = [Manner(*pair, "off", config.batch or FIRST_BATCH) for pair in pairs]
    best, best_s = _fastest(network, input, candidates, views, device)
    if not config.batch:
        sizes = GPU_BATCHES if device.type == "cuda" else CPU_BATCHES
        candidates = [replace(best, batch=size) for size in sizes]
        best, best_s = _fastest(network, input, candidates, views, device)
    if by != "off":
        return replace(best, compiled=by)
    if config.compile == "auto" and best_s * num_views >= COMPILE_LEAST_S and has_compiler(device):
        tried = [replace(best, compiled="inductor")]
        best, _ = _fastest(network, input, tried, views, device, {best: best_s})
    return best


def _check_compiler(asked: str, device: torch.device) -> None:
    if asked == "on" and not has_compiler(device):
        raise ConfigError(
            "compile is on, but there is no compiler here (g++, or Triton on a GPU); install one,"
            " or set compile to auto"
        )
    if asked == "tensorrt" and (device.type != "cuda" or find_spec("torch_tensorrt") is None):
        raise ConfigError(
            "compile is tensorrt, but there is no GPU here, or no torch-tensorrt; install it, or"
            " set compile to auto"
        )


def _fastest(
    network: nn.Module,
    input: InputConfig,
    candidates: list[Manner],
    views: Tensor,
    device: torch.device,
    known: Mapping[Manner, float] = MappingProxyType({}),
) -> tuple[Manner, float]:
    """The manner of the least time a view, and that time in seconds."""
    times = dict(known)
    for manner in candidates:
        try:
            times[manner] = seconds(Forward(network, input, manner, device), views)
        except torch.cuda.OutOfMemoryError:
            if not times:
                raise
            logger.info("%s: the device's memory is too small", _told(manner))
            torch.cuda.empty_cache()
            break
    best = min(times, key=lambda manner: times[manner])
    told = ", ".join(f"{_told(manner)} {1000 * s:.2f} ms" for manner, s in times.items())
    logger.info("a view takes: %s", told)
    return best, times[best]


def seconds(forward: Forward, views: Tensor) -> float:
    """Seconds a view: the faster of two passes, after one to warm up."""
    batch = forward.manner.batch
    views = views.repeat(-(-batch // len(views)), 1, 1, 1)[:batch]
    best = float("inf")
    for attempt in range(3):
        began = time.perf_counter()
        forward(views).sum().item()  # waits for the device
        if attempt:
            best = min(best, time.perf_counter() - began)
    return best / batch


def _told(manner: Manner) -> str:
    words = f"{manner.precision} {manner.layout} by {manner.batch}"
    return words if manner.compiled == "off" else f"{words} by {manner.compiled}"
