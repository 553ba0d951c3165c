"""What a network sees in each picture: its pooled features, before the classifier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainer.config import DataConfig, InputConfig
from trainer.data import stream
from trainer.data.shards import Dataset
from trainer.learn.engine import normalise


class Samples(stream.EvaluationPlan):
    """The samples of a range, all on one rank."""

    def __init__(self, ids: slice, batch: int) -> None:
        super().__init__(ids.stop - ids.start, batch, rank=0, world=1)
        self.first = ids.start

    def __iter__(self) -> Iterator[stream.Part]:
        for part in super().__iter__():
            yield stream.Part(part.step, tuple(self.first + each for each in part.ids))


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
    decoded = stream.Decoded(dataset, data, stream.CentreView(input), cache_dir)
    found = []
    for part in stream.batches(decoded, Samples(ids, batch), data, pin=False):
        pixels = normalise(part.pixels, input, device, "nchw")
        pooled = network.forward_head(network.forward_features(pixels), pre_logits=True)  # type: ignore[operator]
        read = (part.weights > 0).float()[:, None]
        found.append((pooled.float().cpu() * read).half().numpy())
    return np.concatenate(found)
