"""Which parameters learn at which rate, what moves them, and what that remembers.

Rates in a group are the run's rate times the group's lr_scale, as timm names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import OptimConfig
from trainer.learn import models, pooling

MEMORY = {
    "sgd": {"momentum": "momentum_buffer"},
    "lars": {"momentum": "momentum_buffer"},
    "lamb": {"mean": "exp_avg", "square": "exp_avg_sq"},
}
"""What each optimiser remembers of a parameter: the name in checkpoints, and torch's."""


class Mover:
    """An optimiser that can leave out a step, and whose memory has names."""

    def __init__(self, network: nn.Module, config: OptimConfig) -> None:
        self.names = MEMORY[config.name]
        self.parameters = dict(network.named_parameters())
        self.is_fused = config.name == "sgd"
        self.optimizer = _build(parameter_groups(network, config), config)

    def set_rate(self, lr: float) -> None:
        """Sets the run's rate, scaled in each group."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]

    def step(self, bad: Tensor) -> None:
        """One step by the gradients, which are gone afterwards; none where bad (a scalar) is 1."""
        fused: Any = self.optimizer
        if self.is_fused:
            fused.found_inf = bad  # then everything stays as it is, without a read by the host
            fused.step()
        elif not bad.item():
            fused.step()
        fused.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers, by names such as momentum.PARAMETER; zeros before the first step."""
        flat = {}
        for name, parameter in self.parameters.items():
            kept = self.optimizer.state[parameter]
            for ours, theirs in self.names.items():
                value = kept.get(theirs)
                flat[f"{ours}.{name}"] = torch.zeros_like(parameter) if value is None else value
        for number, steps in self._steps():
            flat[f"steps.{number}"] = steps
        return flat

    def load(self, flat: Mapping[str, Tensor]) -> None:
        """Takes what `tensors` gave."""
        for name, parameter in self.parameters.items():
            for ours, theirs in self.names.items():
                # Keeps the parameter's memory layout, which the fused optimiser wants equal.
                kept = torch.empty_like(parameter).copy_(flat[f"{ours}.{name}"])
                self.optimizer.state[parameter][theirs] = kept
        for number, _ in self._steps():
            self.optimizer.param_groups[number]["step"] = flat[f"steps.{number}"].clone()

    def _steps(self) -> Iterator[tuple[int, Tensor]]:
        """The steps that each group has counted, where the optimiser counts them."""
        if "mean" in self.names:
            for number, group in enumerate(self.optimizer.param_groups):
                yield number, group.get("step", torch.zeros(()))


def _build(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    nesterov = config.nesterov and config.momentum > 0
    if config.name == "lamb":
        from timm.optim.lamb import Lamb  # timm's optimisers take a second to import

        return Lamb(groups, lr=config.lr)
    if config.name == "lars":
        from timm.optim.lars import Lars

        return Lars(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov)
    # The fused form alone can leave out a step without a read from the device.
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=True
    )


def parameter_groups(network: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """The parameters that learn, in groups of one weight decay and one share of the rate.

    Biases and norms (one dimension or none) do not decay. GeM's p does not either, and has a rate
    of its own. layer_decay below 1 slows each stage against the one above it.
    """
    powers = pooling.powers(network)
    depth = _depths(network) if config.layer_decay != 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        scale = config.layer_decay ** depth.get(name, 0)
        if name in powers:
            decay, scale = 0.0, config.pool_lr_ratio
        groups.setdefault((decay, scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]


def _depths(network: nn.Module) -> dict[str, int]:
    """Of each parameter, how many stages are above its own."""
    stages = models.stage_of(network)
    last = max(stages.values())
    return {name: last - stage for name, stage in stages.items()}
