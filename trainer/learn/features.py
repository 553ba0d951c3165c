"""What a network sees in each picture: its pooled features, before the classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainer.config import DataConfig, InputConfig
from trainer.data import stream
from trainer.data.shards import Dataset
from trainer.learn.engine import normalise


@torch.no_grad()
def features_of(
    network: nn.Module,
    dataset: Dataset,
    ids: slice,
    data: DataConfig,
    input: InputConfig,
    device: torch.device,
    cache_dir: Path,
    batch: int = 64,
) -> NDArray[np.float16]:
    """(n, d) features of the centre views of these samples; zeros for one that cannot be read.

    network: a timm model in evaluation mode, on the device.
    """
    views = stream.evaluation_batches(
        dataset, data, input, batch, cache_dir, rank=0, world=1, pin=False, ids=ids
    )
    found = []
    for part in views:
        pixels = normalise(part.pixels, input, device, "nchw")
        pooled = network.forward_head(network.forward_features(pixels), pre_logits=True)  # type: ignore[operator]
        read = (part.weights > 0).float()[:, None]
        found.append((pooled.float().cpu() * read).half().numpy())
    return np.concatenate(found)
