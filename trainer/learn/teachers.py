"""Who tells a self-label loss what a picture shows: frozen weights, or the run's averaged ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.config import InputConfig
from trainer.learn.placement import placed


@dataclass(frozen=True)
class Teacher:
    """A network that only looks: in evaluation mode, without gradients."""

    network: nn.Module
    input: InputConfig
    """How pixels become its input; only mean and standard deviation matter."""

    @classmethod
    def sharing(
        cls, network: nn.Module, weights: Mapping[str, Tensor], like: InputConfig
    ) -> Teacher:
        """One that holds these very tensors, so it changes as they do."""
        twin = copy.deepcopy(network)
        twin.load_state_dict(weights, assign=True)
        return cls(twin.eval().requires_grad_(False), like)

    @classmethod
    def frozen(
        cls, network: nn.Module, device: torch.device, layout: str, like: InputConfig
    ) -> Teacher:
        """One whose weights stay as they are."""
        return cls(placed(network, device, layout).eval().requires_grad_(False), like)
