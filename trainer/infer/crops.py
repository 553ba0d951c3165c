"""Which views of a picture a network is asked about: crop sets by name.

A view is a square of the picture after a resize of its shorter side; each is also taken mirrored.
Sides are shares of the network's input size S, so that at S = 224 they are the published ones:

    1           centre, resized to S / crop_ratio: the evaluation's own
    2           the same and its mirror image
    10          four corners and the centre of the same resize, mirrored
    144         shorter side 256, 288, 320, 352; left, middle and right square (of tall pictures
                upper, middle, lower); of each four corners, centre and the whole square; mirrored.
                Szegedy et al., arXiv:1409.4842
    vgg         shorter side 256, 384, 512; a grid of 5 x 5; mirrored: 150 views.
                Simonyan and Zisserman, arXiv:1409.1556
    multiscale  centre at input sizes S, 8/7 S and 10/7 S, mirrored: the network sees more pixels
    dense       the whole centre square of the resize at once, mirrored. Pooling averages over all
                places; not the mean of crops, but nearly, at a quarter of the work

A network that was trained without mirrored pictures is never shown any: its sets are halved.

Letters: V views that are not mirrored, s side of a view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.config import InputConfig, crops_of
from trainer.data.augment import centre, resize

Cut = Literal["centre", "ten", "squares", "grid"]
Resized = Callable[[int], Tensor]
"""The picture, (3, H, W) uint8, with its shorter side at so many pixels."""
GOOGLENET, VGG, SCALES = (256, 288, 320, 352), (256, 384, 512), (1.0, 8 / 7, 10 / 7)
GRID = 5
STEP_PX = 32
"""Networks halve the picture five times: sides that this divides lose nothing at the edges."""


@dataclass(frozen=True)
class Views:
    """Views of one side, from one or several resizes of the picture."""

    cut: Cut
    side_px: int
    shorts_px: tuple[int, ...]

    @property
    def number(self) -> int:
        """V"""
        return (
            len(self.shorts_px) * {"centre": 1, "ten": 5, "squares": 18, "grid": GRID**2}[self.cut]
        )


@dataclass(frozen=True)
class CropSet:
    """All views over which a network's answers are averaged."""

    name: str
    size_px: int
    """The network's input size, which all sides are in proportion to."""
    views: tuple[Views, ...]
    mirrored: bool
    """Whether each view is also taken mirrored."""

    @property
    def number(self) -> int:
        """Forward passes of one picture."""
        return sum(views.number for views in self.views) * (2 if self.mirrored else 1)


def crop_set(name: str, size_px: int, crop_ratio: float, *, flips: bool = True) -> CropSet:
    """The crop set of a name for a network's input size and the ratio of its evaluation.

    flips: whether it knows mirrored pictures.
    """
    views = _views(name, size_px, crop_ratio)
    return CropSet(name, size_px, views, mirrored=flips and name != "1")


def crops_for(spec: str, input: InputConfig) -> CropSet:
    """The crop set that is named, as 10 or 10@320, for a run's input. Raises ConfigError."""
    name, size = crops_of(spec)
    return crop_set(name, size or input.size_px, input.crop_ratio, flips=input.flip > 0)


def _views(name: str, size_px: int, crop_ratio: float) -> tuple[Views, ...]:
    short = round(size_px / crop_ratio)

    def scaled(sides: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(round(size_px * side / 224) for side in sides)

    if name in ("1", "2"):
        return (Views("centre", size_px, (short,)),)
    if name == "10":
        return (Views("ten", size_px, (short,)),)
    if name == "144":
        return (Views("squares", size_px, scaled(GOOGLENET)),)
    if name == "vgg":
        return (Views("grid", size_px, scaled(VGG)),)
    if name == "multiscale":
        sides = [max(size_px, round(size_px * scale / STEP_PX) * STEP_PX) for scale in SCALES]
        return tuple(
            Views("centre", side, (round(side / crop_ratio),)) for side in dict.fromkeys(sides)
        )
    assert name == "dense", name
    return (Views("centre", short, (short,)),)


def cut(views: Views, resized: Resized) -> Tensor:
    """(V, 3, s, s) uint8"""
    return torch.stack([each for short in views.shorts_px for each in _cut(views, resized(short))])


def _cut(views: Views, picture: Tensor) -> Iterator[Tensor]:
    side = views.side_px
    if views.cut == "centre":
        yield centre(picture, side)
    elif views.cut == "ten":
        yield from _ten(picture, side)
    elif views.cut == "grid":
        height, width = picture.shape[-2:]
        for i in range(GRID):
            for j in range(GRID):
                yield _square(picture, side, _part(height - side, i), _part(width - side, j))
    else:
        for square in _squares(picture):
            yield from _ten(square, side)
            yield resize(square, side, side)


def _part(room: int, place: int) -> int:
    """Where the crop at this place of the grid begins."""
    return round(room * place / (GRID - 1))


def _squares(picture: Tensor) -> Iterator[Tensor]:
    """The left, middle and right square, or the upper, middle and lower one."""
    height, width = picture.shape[-2:]
    short, room = min(height, width), abs(height - width)
    for start in (0, round(room / 2), room):
        yield _square(picture, short, *((start, 0) if height > width else (0, start)))


def _ten(picture: Tensor, side: int) -> Iterator[Tensor]:
    """Four corners and the centre: the half of ten that is not mirrored."""
    bottom, right = picture.shape[-2] - side, picture.shape[-1] - side
    for top, left in ((0, 0), (0, right), (bottom, 0), (bottom, right)):
        yield _square(picture, side, top, left)
    yield centre(picture, side)


def _square(picture: Tensor, side: int, top: int, left: int) -> Tensor:
    return picture[:, top : top + side, left : left + side]
