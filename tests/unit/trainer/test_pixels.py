"""Decoding what the web sends, and views that depend on seed, epoch and id alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torchvision.transforms.v2
from PIL import Image

from trainer.config import InputConfig
from trainer.data import augment
from trainer.data.decode import DamagedImage, decode


def picture(width: int = 60, height: int = 40, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    rng = np.random.default_rng(1)
    small = rng.integers(0, 255, (height // 10, width // 10, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return out.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "GIF"), ("1", "PNG")],
)
def test_whatever_pillow_reads_becomes_rgb(mode: str, kind: str) -> None:
    data = picture(mode=mode, kind=kind)
    pixels = decode(data)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (3, 40, 60))
    with Image.open(io.BytesIO(data)) as image:
        expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert (pixels.int() - expected.int()).abs().float().mean() < 1.0


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", picture()[:400], picture()[:2], picture(kind="PNG")[:200], b"\xff" * 99],
)
def test_half_a_picture_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedImage, match="not a whole picture"):
        decode(data)


def test_a_forged_header_takes_no_gigabytes() -> None:
    data = bytearray(picture())
    size = data.index(b"\xff\xc0") + 5  # of the frame: height, then width
    data[size : size + 4] = b"\x7f\xff\x7f\xff"
    with pytest.raises(DamagedImage, match="too many pixels: 32767 x 32767"):
        decode(bytes(data))


def test_9_a_view_depends_on_seed_epoch_and_id_alone() -> None:
    config = InputConfig(size_px=32)
    image = decode(picture())
    first = augment.training_view(image, config, seed=1, epoch=2, sample=3)
    assert first.shape == (3, 32, 32)
    torch.manual_seed(99)
    assert torch.equal(first, augment.training_view(image, config, seed=1, epoch=2, sample=3))
    for other in ({"seed": 2}, {"epoch": 3}, {"sample": 4}):
        what = {"seed": 1, "epoch": 2, "sample": 3, **other}
        assert not torch.equal(first, augment.training_view(image, config, **what))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (40, 60), (7, 5)])
def test_crops_lie_inside_pictures_of_any_shape(height: int, width: int) -> None:
    for k in range(50):
        top, left, h, w = augment.crop_box(height, width, 0.08, augment.generator("t", k))
        assert h >= 1
        assert w >= 1
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w


def test_crops_cover_the_allowed_areas_and_ratios() -> None:
    boxes = [augment.crop_box(400, 400, 0.08, augment.generator("t", k)) for k in range(500)]
    areas = [h * w / 400**2 for _, _, h, w in boxes]
    ratios = [w / h for _, _, h, w in boxes]
    assert 0.078 < min(areas) < 0.12
    assert max(areas) > 0.9
    assert 0.74 < min(ratios) < 0.78
    assert 1.28 < max(ratios) < 1.35


def test_the_evaluation_view_is_the_centre() -> None:
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    image[:, 15:25, 35:45] = 255
    view = augment.evaluation_view(image, InputConfig(size_px=20, crop_ratio=0.5))
    assert view.shape == (3, 20, 20)
    assert view[:, 8:12, 8:12].min() == 255
    assert view[:, :4].max() == 0


@pytest.mark.parametrize(
    ("height", "width", "size"), [(64, 64, 64), (300, 201, 224), (33, 500, 96)]
)
def test_views_are_torchvisions_pixel_for_pixel(height: int, width: int, size: int) -> None:
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    config = InputConfig(size_px=size, flip=0)
    functional = torchvision.transforms.v2.functional
    resized = functional.resize(image, [round(size / 0.875)], antialias=True)
    expected = functional.center_crop(resized, [size, size])
    assert torch.equal(augment.evaluation_view(image, config), expected)
    draw = augment.generator("augment", 0, 0, 0)
    box = augment.crop_box(height, width, config.scale_least, draw)
    expected = functional.resized_crop(image, *box, [size, size], antialias=True)
    assert torch.equal(augment.training_view(image, config, seed=0, epoch=0, sample=0), expected)
