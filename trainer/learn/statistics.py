"""Running statistics of batch normalisation, measured anew: a larger input shifts them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replaces running means and variances by their averages over the batches of all ranks.

    batches: (b, 3, H, W) network inputs; every rank must give as many. Returns how many there
    were; without any, and in a network without such layers, nothing changes.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    modes = {module: module.training for module in network.modules()}
    momenta = [norm.momentum for norm in norms]
    before = [
        (norm.running_mean.clone(), norm.running_var.clone())  # type: ignore[union-attr]
        for norm in norms
    ]
    network.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
    count = 0
    for batch in batches:
        network(batch)
        count += 1
    for norm, momentum, kept in zip(norms, momenta, before, strict=True):
        norm.momentum = momentum
        for value, old in zip((norm.running_mean, norm.running_var), kept, strict=True):
            assert value is not None
            if not count:
                value.copy_(old)
            elif dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(value)
                value /= dist.get_world_size()
    for module, mode in modes.items():
        module.training = mode
    return count
