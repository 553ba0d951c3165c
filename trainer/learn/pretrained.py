"""Weights to begin with: those of a safetensors file, by name, in a network that was just built.

Files of the timm project fit as they are, and so do our own checkpoints. Nothing is unpickled.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from trainer.checkpoint import read_tensors
from trainer.config import ConfigError
from trainer.learn import pooling
from trainer.storage import StorageError, open_store, split

logger = logging.getLogger(__name__)

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""

CHECKPOINT = ("ema.", "model.", "momentum.", "mean.", "square.", "steps.", "loss.", "margins.")
"""What our checkpoints put before all they keep; the averaged weights are preferred."""

NAMED = 5
"""So many tensors are named in an error, the others counted."""


@torch.no_grad()
def load(network: nn.Module, address: str) -> None:
    """Copies the file's weights into the network; all names and shapes must be the same.

    Not so the classifier: where the file's has another number of classes, the network's stays as
    it is. What a file may lack: a GeM's power, and how many batches a norm has seen.
    Raises ConfigError in one line that names the file and the tensors that do not fit.
    """
    read, sha256 = _read(address)
    weights = unwrapped(read)
    own = network.state_dict()
    head = _classifier(network, own)
    fresh = {name for name in head if name in weights and _only_rows_differ(weights, own, name)}
    problem = misfit(
        {name: value for name, value in weights.items() if name not in fresh},
        {name: value for name, value in own.items() if name not in fresh},
        optional=_optional(network),
    )
    if problem:
        raise ConfigError(
            f"model.pretrained {address} has tensors that do not fit the network"
            f" {type(network).__name__}: {problem}; give this network's file,"
            " or the fields of model that are the file's"
        )
    for name, value in weights.items():
        if name not in fresh:
            own[name].copy_(value)
    logger.info("weights of %s, SHA-256 %s", address, sha256)
    for name in sorted(fresh):
        there, here = len(weights[name]), len(own[name])
        logger.info("%s begins anew: %d classes there, %d here", name, there, here)


def unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the network's own names; of one of our checkpoints, the averaged ones."""
    if not weights:
        return {}
    prefix = next((p for p in WRAPPERS if all(name.startswith(p) for name in weights)), "")
    if all(name.startswith(CHECKPOINT) for name in weights):
        prefix = next(p for p in CHECKPOINT if any(name.startswith(p) for name in weights))
    if not prefix:
        return dict(weights)
    return unwrapped(
        {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    )


def _only_rows_differ(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> bool:
    there, here = weights[name].shape, own[name].shape
    return there[1:] == here[1:] and there[:1] != here[:1]


def misfit(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], *, optional: Collection[str] = ()
) -> str:
    """How the weights differ from the network's own, in words; empty where they fit."""
    missing = [name for name in own if name not in weights and name not in optional]
    unexpected = [name for name in weights if name not in own]
    shapes = [
        f"{name}: {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the network"
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    ]
    parts = [
        f"{len(names)} {what} ({', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)})"
        for what, names in (
            ("missing", missing),
            ("not expected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    return ", ".join(parts)


def _read(address: str) -> tuple[dict[str, Tensor], str]:
    try:
        folder, name = split(address)
        return read_tensors(open_store(folder), name)
    except StorageError as error:
        raise ConfigError(f"model.pretrained cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigError(
            f"model.pretrained {address} is not a safetensors file: {error}; convert others with"
            " safetensors.torch.save_file"
        ) from error


def _classifier(network: nn.Module, own: Mapping[str, Tensor]) -> set[str]:
    """Names of the classifier's weights; none where the network does not tell which it is."""
    get = getattr(network, "get_classifier", None)
    last = get() if callable(get) else None
    prefixes = [f"{name}." for name, module in network.named_modules() if module is last]
    return {name for name in own if any(name.startswith(prefix) for prefix in prefixes)}


def _optional(network: nn.Module) -> set[str]:
    counts = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    return {*pooling.powers(network), *counts}
