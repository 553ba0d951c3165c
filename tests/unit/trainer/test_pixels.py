"""Decoding what the web sends, and views that depend on seed, epoch and id alone."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2
from PIL import Image

from trainer.config import AugmentConfig, InputConfig
from trainer.data import augment, policy
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
    first = augment.training_view(image, config, AugmentConfig(), seed=1, epoch=2, sample=3)
    assert first.shape == (3, 32, 32)
    torch.manual_seed(99)
    assert torch.equal(
        first, augment.training_view(image, config, AugmentConfig(), seed=1, epoch=2, sample=3)
    )
    for other in ({"seed": 2}, {"epoch": 3}, {"sample": 4}):
        what = {"seed": 1, "epoch": 2, "sample": 3, **other}
        assert not torch.equal(first, augment.training_view(image, config, AugmentConfig(), **what))


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
    view = augment.evaluation_view(image, InputConfig(crop_ratio=0.5), 20)
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
    assert torch.equal(augment.evaluation_view(image, config, config.size_px), expected)
    draw = augment.generator("augment", 0, 0, 0)
    box = augment.crop_box(height, width, config.scale_least, draw)
    expected = functional.resized_crop(image, *box, [size, size], antialias=True)
    assert torch.equal(
        augment.training_view(image, config, AugmentConfig(), seed=0, epoch=0, sample=0), expected
    )


ALL = AugmentConfig(randaugment_ops=2, color_jitter=0.4, pca_noise=0.1, erase=0.5)


@pytest.mark.parametrize("key", ["randaugment_ops", "color_jitter", "pca_noise", "erase"])
def test_each_augmentation_changes_the_view_by_seed_epoch_and_id_alone(key: str) -> None:
    image = decode(picture())
    config = InputConfig(size_px=24)
    alone = replace(AugmentConfig(), **{key: getattr(ALL, key)})
    if key == "erase":
        alone = AugmentConfig(erase=1.0)
    before = torch.get_rng_state()
    first = augment.training_view(image, config, alone, seed=1, epoch=2, sample=3)
    assert torch.equal(torch.get_rng_state(), before), "the run's own generator is left alone"
    torch.manual_seed(99)
    assert torch.equal(
        first, augment.training_view(image, config, alone, seed=1, epoch=2, sample=3)
    )
    plain = augment.training_view(image, config, AugmentConfig(), seed=1, epoch=2, sample=3)
    others = [
        augment.training_view(image, config, alone, seed=1, epoch=epoch, sample=3)
        for epoch in range(8)
    ]
    assert first.dtype == torch.uint8
    assert first.shape == plain.shape
    assert len({tuple(other.flatten().tolist()) for other in others}) > 1
    assert any(
        not torch.equal(
            other,
            augment.training_view(image, config, AugmentConfig(), seed=1, epoch=epoch, sample=3),
        )
        for epoch, other in enumerate(others)
    )


def test_colour_noise_is_one_colour_for_all_pixels_of_the_stated_spread() -> None:
    grey = torch.full((3, 4, 4), 128, dtype=torch.uint8)
    colours = torch.stack(
        [
            policy.colour_noise(grey, 0.1, augment.generator("noise", number))[:, 0, 0].float()
            for number in range(2000)
        ]
    )
    noisy = policy.colour_noise(grey, 0.1, augment.generator("noise", 0))
    assert noisy.flatten(1).unique(dim=1).shape[1] == 1
    spread = 255 * 0.1 * (policy.COLOUR_AXES * policy.COLOUR_SCALES)
    expected = spread @ spread.T + torch.eye(3) / 12  # and what rounding adds
    assert torch.allclose(colours.T.cov(), expected, rtol=0.15, atol=1.5)


def test_a_growing_crop_grows_evenly_to_its_full_size() -> None:
    config = InputConfig(size_px=224, start_px=128, grow_epochs=6)
    sides = [augment.side_px(config, epoch) for epoch in range(8)]
    assert sides == [128, 144, 160, 176, 192, 208, 224, 224]
    assert augment.side_px(InputConfig(size_px=224), 0) == 224
