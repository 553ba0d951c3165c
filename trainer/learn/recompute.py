"""Gradient checkpointing: a network's blocks are computed again on the way back, not remembered.

An update takes about a third longer and keeps of each block only what goes in. timm has it for
some of the networks; this is for all, and counts a batch once in the running statistics, though
the norms see it twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from trainer.config import ConfigError


def recompute(network: nn.Module) -> None:
    """Lets every block of the network be recomputed; names, weights and results stay.

    Raises ConfigError where the network has no blocks.
    """
    found = blocks(network)
    if not found:
        raise ConfigError(
            f"update.grad_checkpointing is always, but the network {type(network).__name__} has no"
            " blocks that could be computed again; set it to never"
        )
    for block in found:
        kind: Any = type(block)  # to mypy, a class of modules has no hash
        block.__class__ = _recomputed(kind)


def blocks(network: nn.Module) -> list[nn.Module]:
    """What is recomputed as one: the children of several layers, inside stages where they are."""
    return [block for child in network.children() for block in _blocks(child)]


def _blocks(module: nn.Module) -> list[nn.Module]:
    if not _has_layers(module):
        return []
    if isinstance(module, nn.Sequential | nn.ModuleList):
        inner = [block for child in module.children() for block in _blocks(child)]
        if inner:
            return inner
    return [module]


def _has_layers(module: nn.Module) -> bool:
    """Whether it is more than one layer: a layer alone saves nothing, its input is kept anyway."""
    return sum(bool(inner._parameters) for inner in module.modules()) > 1


@cache
def _recomputed(kind: type) -> type:
    """The same class, whose forward pass is recomputed."""
    return type(f"Recomputed{kind.__name__}", (_Recomputed, kind), {})


class _Recomputed(nn.Module):
    def forward(self, *given: Any) -> Any:
        plain = super().forward
        if not torch.is_grad_enabled():
            return plain(*given)
        # A compiler takes no contexts and needs none: its graph writes the statistics once.
        if torch.compiler.is_compiling():
            return checkpoint(plain, *given, use_reentrant=False)
        contexts = partial(_contexts, self)
        return checkpoint(plain, *given, use_reentrant=False, context_fn=contexts)


def _contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first computation and around the second."""
    return nullcontext(), _still(block)


@contextmanager
def _still(block: nn.Module) -> Iterator[None]:
    """Leaves running statistics as they are, yet lets the norms save what they saved at first."""
    norms = [norm for norm in block.modules() if isinstance(norm, _NormBase)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
