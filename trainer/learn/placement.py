"""Where a network lies: its device, and the order of its numbers in memory."""

from __future__ import annotations

import torch
from torch import nn


def memory_format(layout: str) -> torch.memory_format:
    """torch's name of update.layout: nhwc is channels last, all else contiguous."""
    return torch.channels_last if layout == "nhwc" else torch.contiguous_format


def placed(network: nn.Module, device: torch.device, layout: str) -> nn.Module:
    """The network itself, moved."""
    moved: nn.Module = network.to(device, memory_format=memory_format(layout))  # type: ignore[call-overload]
    return moved
