"""Pictures to the views of several crop sets, in loader processes.

A picture is decoded once and resized once to each shorter side, however many networks and crop
sets take views of it. Letters: g pictures of a group, V views of each, s side of a view.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from trainer.config import DataConfig
from trainer.data.augment import resize_short
from trainer.data.cache import DamagedSample, Reader
from trainer.data.decode import GREY, DamagedImage, decode
from trainer.data.shards import Dataset as Shards
from trainer.data.stream import loaded
from trainer.infer.crops import Views, cut

GROUP_VIEWS = {"cpu": 128, "cuda": 256}
"""Views of a group at least: enough for a forward pass, and few enough for a loader's memory."""
BATCH_STEP = 16
"""A group's views fill forward passes of this size."""
MOST_RATIO = 4
"""How many times as many views a group may have to fill them."""


@dataclass(frozen=True)
class Group:
    """Views of neighbouring pictures.

    views: (g, V, 3, s, s) uint8 each; read: (g,) bool, false for a picture that cannot be read,
    whose views are grey.
    """

    views: dict[Views, Tensor]
    read: Tensor
    damaged: tuple[str, ...] = ()
    """What could not be read, named."""

    @property
    def rows(self) -> int:
        """g"""
        return len(self.read)

    def pin_memory(self) -> Group:
        """The same in page-locked memory, which the device copies from without waiting."""
        views = {kind: each.pin_memory() for kind, each in self.views.items()}
        return Group(views, self.read.pin_memory(), self.damaged)


class Viewed(Dataset[Group]):
    """Ids to groups. Loader processes get a pickled copy: addresses, no clients."""

    def __init__(self, shards: Shards, data: DataConfig, kinds: Sequence[Views], cache_dir: Path):
        self.shards, self.data, self.kinds = shards, data, tuple(kinds)
        self.cache_dir = cache_dir
        self.reader: Reader | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "reader": None}

    def __getitem__(self, ids: range) -> Group:
        if self.reader is None:
            self.reader = Reader(self.shards, self.cache_dir, self.data.cache_bytes)
        count = len(ids)
        views = {
            kind: torch.full(
                (count, kind.number, 3, kind.side_px, kind.side_px), GREY, dtype=torch.uint8
            )
            for kind in self.kinds
        }
        read, damaged = torch.zeros(count, dtype=torch.bool), []
        for row, sample in enumerate(ids):
            try:
                picture = decode(self.reader.read(sample))
            except (DamagedImage, DamagedSample) as error:
                damaged.append(f"sample {sample}: {error}")
                continue
            for kind, each in views_of(picture, self.kinds).items():
                views[kind][row] = each
            read[row] = True
        return Group(views, read, tuple(damaged))


def views_of(picture: Tensor, kinds: Sequence[Views]) -> dict[Views, Tensor]:
    """(V, 3, s, s) uint8 of each kind. picture: (3, H, W) uint8."""
    resizes: dict[int, Tensor] = {}

    def resized(short_px: int) -> Tensor:
        if short_px not in resizes:
            resizes[short_px] = resize_short(picture, short_px)
        return resizes[short_px]

    return {kind: cut(kind, resized) for kind in kinds}


def groups(
    dataset: Shards,
    data: DataConfig,
    kinds: Sequence[Views],
    ranges: Sequence[slice],
    rows: int,
    cache_dir: Path,
    *,
    pin: bool,
) -> Iterator[Group]:
    """The views of ranges of pictures, in order, `rows` pictures at a time but at a range's end."""
    plan = _Plan(ranges, rows)
    return loaded(Viewed(dataset, data, kinds, cache_dir), plan, data, pin=pin)


def centre_views(
    dataset: Shards, data: DataConfig, side_px: int, crop_ratio: float, most: int, cache_dir: Path
) -> Tensor:
    """(n, 3, s, s) uint8 centres of the first pictures that can be read, n at most `most`."""
    kind = Views("centre", side_px, (round(side_px / crop_ratio),))
    first = [slice(0, min(most, dataset.num_samples))]
    found = groups(dataset, data, [kind], first, most, cache_dir, pin=False)
    return torch.cat([group.views[kind][group.read][:, 0] for group in found])


class _Plan(Sampler[range]):
    """The ids of each group."""

    def __init__(self, ranges: Sequence[slice], rows: int) -> None:
        self._ranges, self._rows = ranges, rows

    def __iter__(self) -> Iterator[range]:
        for each in self._ranges:
            for first in range(each.start, each.stop, self._rows):
                yield range(first, min(first + self._rows, each.stop))


def group_rows(views: int, device: torch.device) -> int:
    """Pictures of a group with so many views each: forward passes are full, memory is bounded."""
    least = GROUP_VIEWS[device.type]
    step = BATCH_STEP // math.gcd(BATCH_STEP, views)
    rows = -(-least // (views * step)) * step
    return rows if rows * views <= MOST_RATIO * least else -(-least // views)
