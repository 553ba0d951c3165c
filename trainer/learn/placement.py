"""Where a network lies: its device, what that can, and the order of its numbers in memory."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import torch
from torch import nn


def memory_format(layout: str) -> torch.memory_format:
    """torch's name of update.layout: nhwc is channels last, all else contiguous."""
    return torch.channels_last if layout == "nhwc" else torch.contiguous_format


def placed(network: nn.Module, device: torch.device, layout: str) -> nn.Module:
    """The network itself, moved."""
    moved: nn.Module = network.to(device, memory_format=memory_format(layout))  # type: ignore[call-overload]
    return moved


def own_device(number: int = 0) -> torch.device:
    """This process's GPU where there are any, else the CPU. number: of the GPU on its machine."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile has what it needs: a C++ compiler on CPUs, Triton on GPUs."""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))
