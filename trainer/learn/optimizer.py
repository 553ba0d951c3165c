"""Which parameters learn at which rate, and what moves them.

Rates in a group are the run's rate times the group's lr_scale, as timm names it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trainer.config import OptimConfig
from trainer.learn.pooling import GeM


def parameter_groups(network: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Parameters that learn: those that decay, those that do not, and the pooling's powers.

    Biases and norms (one dimension or none) do not decay, and neither does GeM's p, which has a
    rate of its own. Groups without parameters are left out.
    """
    powers = {id(p) for pool in network.modules() if isinstance(pool, GeM) for p in [pool.p]}
    learning = [p for p in network.parameters() if p.requires_grad]
    rest = [p for p in learning if id(p) not in powers]
    groups = [
        _group([p for p in rest if p.ndim > 1], config.weight_decay, 1.0),
        _group([p for p in rest if p.ndim <= 1], 0.0, 1.0),
        _group([p for p in learning if id(p) in powers], 0.0, config.pool_lr_ratio),
    ]
    return [group for group in groups if group["params"]]


def _group(parameters: list[nn.Parameter], weight_decay: float, scale: float) -> dict[str, Any]:
    return {"params": parameters, "weight_decay": weight_decay, "lr_scale": scale}


def build(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of what learns in the network."""
    return torch.optim.SGD(
        parameter_groups(network, config),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        fused=True,  # the only form that can skip an update without a read from the device
    )


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the run's rate, scaled in each group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
