"""One picture to the network's input size: random for training, fixed for evaluation.

A training view is a function of (seed, epoch, id, turn) alone, so it is the same for any number of
ranks and loader processes. Pixels stay uint8; the device normalises them.
"""

from __future__ import annotations

import hashlib
import math
import random

from torch import Tensor
from torch.nn.functional import interpolate

from trainer.config import AugmentConfig, InputConfig
from trainer.data import policy

RATIO = (3 / 4, 4 / 3)
"""Aspect ratios of RandomResizedCrop, torchvision's and the team's."""

SIDE_STEP = 16
"""Pixels between the sides of a growing crop: each new one costs a compilation."""


def generator(*what: str | int) -> random.Random:
    """A random generator that depends on `what` and on nothing else."""
    text = "\x1f".join(str(part) for part in what).encode()
    return random.Random(int.from_bytes(hashlib.sha256(text).digest()[:16], "little"))


def training_view(
    image: Tensor,
    config: InputConfig,
    more: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    sample: int,
    turn: int = 0,
) -> Tensor:
    """A random crop, resized, perhaps mirrored, and changed as `more` says.

    image: (3, H, W) uint8; turn: how often the sample has occurred before in the epoch.
    Returns (3, S, S) uint8 with S = side_px(config, epoch).
    """
    draw = generator("augment", seed, epoch, sample, *([turn] if turn else []))
    top, left, height, width = crop_box(image.shape[-2], image.shape[-1], config.scale_least, draw)
    crop = image[:, top : top + height, left : left + width]
    side = side_px(config, epoch)
    view = resize(crop, side, side)
    return policy.apply(view.flip(-1) if draw.random() < config.flip else view, more, draw)


def side_px(config: InputConfig, epoch: int) -> int:
    """Side of the training crop in an epoch: grows evenly from start_px, in steps of SIDE_STEP."""
    if not config.start_px or epoch >= config.grow_epochs:
        return config.size_px
    grown = (config.size_px - config.start_px) * epoch / config.grow_epochs
    return config.start_px + int(grown / SIDE_STEP) * SIDE_STEP


def crop_box(
    height: int, width: int, scale_least: float, draw: random.Random
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop of random area and aspect ratio.

    Ten tries, then the largest centred crop of an allowed ratio, as torchvision's.
    """
    for _ in range(10):
        area = height * width * draw.uniform(scale_least, 1.0)
        ratio = math.exp(draw.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return draw.randint(0, height - h), draw.randint(0, width - w), h, w
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def evaluation_view(image: Tensor, config: InputConfig, size: int) -> Tensor:
    """The centre crop of `size` px after a resize of the shorter side to size / crop_ratio.

    image: (3, H, W) uint8. Returns (3, size, size) uint8.
    """
    return centre(resize_short(image, round(size / config.crop_ratio)), size)


def centre(image: Tensor, size: int) -> Tensor:
    """The middle square of `size` px."""
    top, left = (round((side - size) / 2) for side in image.shape[-2:])
    return image[:, top : top + size, left : left + size]


def resize_short(image: Tensor, short: int) -> Tensor:
    """The picture with its shorter side at `short` px, its proportions kept."""
    height, width = image.shape[-2:]
    if height < width:
        return resize(image, short, int(short * width / height))
    return resize(image, int(short * height / width), short)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """The picture at another size, as torchvision resizes uint8 tensors: bilinear, antialiased.

    torchvision itself is not imported: loader processes would take seconds longer to start.
    """
    options = {"mode": "bilinear", "align_corners": False, "antialias": True}
    return interpolate(image[None], (height, width), **options)[0]  # type: ignore[arg-type]
