"""Generalised-mean pooling, as a function, as a module, and in place of a timm network's own.

Letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn

from trainer.config import ConfigError

P_LEAST, P_MOST = 1.0, 8.0
"""Outside of these p is no mean any more, or no different from the maximum."""

Kind = Literal["gem", "gem_channel"]


def gem(x: Tensor, p: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalised-mean pooling: the mean of x**p over the pixels, to the power 1/p.

    x: (B, C, H, W); values below eps count as eps, since a root needs them positive.
    p: scalar, or (C,) for one a channel; 1 is average pooling, large p tends to max pooling.
        Counts as 1 below that and as 8 above; its gradient there is 0 where it would lead further
        outside, and whole where it leads back, so p cannot get stuck.
    Returns (B, C), in float32 for bf16 and under autocast.
    Source: Radenović, Tolias, Chum, arXiv:1711.02512.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = (x if x.dtype == torch.float64 else x.float()).clamp(min=eps)
        p = _Within.apply(p.to(x.dtype))
        # Relative to the largest pixel: eps**8 is 0 in float32, whose root has no gradient.
        largest = x.detach().amax((2, 3))  # (B, C)
        powers = (x / largest[:, :, None, None]) ** p.view(-1, 1, 1)
        return largest * powers.mean((2, 3)) ** (1 / p)


class _Within(torch.autograd.Function):
    """Clamps to P_LEAST and P_MOST; gradients pass unless a descent would lead further outside."""

    @staticmethod
    def forward(p: Tensor) -> Tensor:
        return p.clamp(P_LEAST, P_MOST)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        [p], [grad] = ctx.saved_tensors, grads
        outwards = ((p <= P_LEAST) & (grad > 0)) | ((p >= P_MOST) & (grad < 0))
        return grad.masked_fill(outwards, 0)


class GeM(nn.Module):
    """`gem` with a learnable p.

    channels: None learns one p for all, a number one p for each.
    flat: returns (B, C), as a linear classifier wants; else (B, C, 1, 1), as a convolution does.
    """

    def __init__(self, channels: int | None, p: float, *, flat: bool = True) -> None:
        super().__init__()
        if not P_LEAST <= p <= P_MOST:
            raise ValueError(f"p is {p}, but allowed is {P_LEAST:g} to {P_MOST:g}")
        # One dimension or none, so the optimiser lets it not decay (optimizer.parameter_groups).
        self.p = nn.Parameter(torch.full(() if channels is None else (channels,), float(p)))
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W)."""
        pooled = gem(x, self.p)
        return pooled if self.flat else pooled[:, :, None, None]

    def extra_repr(self) -> str:
        return f"p={tuple(self.p.shape)}, flat={self.flat}"


def powers(network: nn.Module) -> dict[str, nn.Parameter]:
    """The powers of a network's GeM, by their names among its parameters; most have one or none."""
    pools = ((name, part) for name, part in network.named_modules() if isinstance(part, GeM))
    return {f"{name}.p": pool.p for name, pool in pools}


def replace_pooling(network: nn.Module, kind: Kind, p: float) -> None:
    """Puts GeM in place of a timm network's global average pooling.

    kind: "gem" learns one p, "gem_channel" one a channel; p is what they start from. 1 changes no
        answer of a network that ends in ReLU, as all seven do.
    Raises ConfigError naming the network where it has no such pooling, or several.
    """
    found = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, SelectAdaptivePool2d)
    ]
    if len(found) != 1 or found[0][1].pool_type not in ("avg", "fast", "fastavg"):
        kinds = ", ".join(module.pool_type or "none" for _, module in found) or "none"
        raise ConfigError(
            f"model.pool is {kind!r}, but the network {type(network).__name__} has other pooling"
            f" than one global average (found: {kinds}); leave model.pool at default"
        )
    [(name, old)] = found
    new = GeM(
        int(network.num_features) if kind == "gem_channel" else None,  # type: ignore[arg-type]
        p,
        flat=_flattens(old),
    )
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, new)


def _flattens(pool: nn.Module) -> bool:
    """Whether timm's pooling gives (B, C): it flattens itself, or its fast form does."""
    return isinstance(pool.flatten, nn.Flatten) or bool(getattr(pool.pool, "flatten", False))
