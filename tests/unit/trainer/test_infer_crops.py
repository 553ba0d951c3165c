"""Crop sets: which squares of a picture, checked against torchvision and counted by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional as vision

from trainer.config import CROPS, ConfigError, InputConfig, crops_of
from trainer.data.augment import evaluation_view, resize_short
from trainer.infer.crops import crop_set
from trainer.infer.views import BATCH_STEP, GROUP_VIEWS, MOST_RATIO, group_rows, views_of

RATIO = 0.875


def picture(height: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(height)
    return torch.randint(256, (3, height, width), generator=draw, dtype=torch.uint8)


def squares(name: str, image: Tensor, size: int = 32) -> Tensor:
    """(V, 3, s, s) of a crop set of one side."""
    (kind,) = crop_set(name, size, RATIO).views
    return views_of(image, [kind])[kind]


@pytest.mark.parametrize(
    ("name", "number"),
    [("1", 1), ("2", 2), ("10", 10), ("144", 144), ("vgg", 150), ("multiscale", 6), ("dense", 2)],
)
def test_each_set_has_so_many_views_of_its_side(name: str, number: int) -> None:
    crops = crop_set(name, 224, RATIO)
    assert crops.number == number
    for kind in crops.views:
        found = views_of(picture(375, 500), [kind])[kind]
        assert found.shape == (kind.number, 3, kind.side_px, kind.side_px)
        assert found.dtype == torch.uint8


@pytest.mark.parametrize("name", CROPS)
def test_who_knows_no_mirrored_pictures_is_shown_none(name: str) -> None:
    crops = crop_set(name, 224, RATIO, flips=False)
    both = crop_set(name, 224, RATIO)
    assert not crops.mirrored
    assert crops.views == both.views
    assert crops.number * (1 if name == "1" else 2) == both.number


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (48, 48), (200, 33)])
def test_one_crop_is_the_evaluations(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    expected = evaluation_view(image, InputConfig(size_px=32, crop_ratio=RATIO), 32)
    assert torch.equal(squares("1", image)[0], expected)


@pytest.mark.parametrize("shape", [(60, 90), (91, 60), (48, 48)])
def test_ten_crops_are_torchvisions(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    expected = vision.ten_crop(resize_short(image, 37), [32, 32])
    assert torch.equal(squares("10", image), torch.stack(expected[:5]))


def test_144_crops_are_googlenets() -> None:
    image = picture(64, 100)
    found = squares("144", image, 56).view(4, 3, 6, 3, 56, 56)  # scale, square, place
    for scale, short in enumerate((64, 72, 80, 88)):
        resized = resize_short(image, short)
        width = resized.shape[-1]
        lefts = (0, round((width - short) / 2), width - short)
        for place, left in enumerate(lefts):
            square = resized[:, :, left : left + short]
            corner = short - 56
            corners = [square[:, y : y + 56, x : x + 56] for y in (0, corner) for x in (0, corner)]
            assert torch.equal(found[scale, place, :4], torch.stack(corners))
            middle = round(corner / 2)
            assert torch.equal(
                found[scale, place, 4], square[:, middle : middle + 56, middle : middle + 56]
            )
            whole = vision.resize(square, [56, 56], antialias=True)
            assert (found[scale, place, 5].int() - whole.int()).abs().max() <= 1


def test_tall_pictures_have_upper_middle_and_lower_squares() -> None:
    image = picture(100, 64)
    turned = squares("144", image, 56)
    flat = squares("144", image.transpose(1, 2).contiguous(), 56)
    order = [0, 2, 1, 3, 4, 5]  # transposed, the corners at upper right and lower left change
    expected = flat.view(12, 6, 3, 56, 56)[:, order].transpose(-1, -2)
    assert (turned.view(12, 6, 3, 56, 56).int() - expected.int()).abs().max() <= 2


def test_the_grid_reaches_every_corner() -> None:
    image = picture(60, 90)
    found = squares("vgg", image, 28).view(3, 5, 5, 3, 28, 28)
    resized = resize_short(image, 32)
    assert torch.equal(found[0, 0, 0], resized[:, :28, :28])
    assert torch.equal(found[0, 4, 4], resized[:, -28:, -28:])
    assert torch.equal(found[0, 0, 4], resized[:, :28, -28:])


def test_a_picture_is_resized_once_to_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counting(image: Tensor, short: int) -> Tensor:
        asked.append(short)
        return resize_short(image, short)

    monkeypatch.setattr("trainer.infer.views.resize_short", counting)
    kinds = [kind for name in CROPS for kind in crop_set(name, 64, RATIO).views]
    views_of(picture(90, 120), kinds)
    assert len(asked) == len(set(asked))
    assert set(asked) == {short for kind in kinds for short in kind.shorts_px}


@given(st.integers(1, 1200), st.sampled_from(["cpu", "cuda"]))
def test_groups_fill_passes_within_bounds(views: int, device: str) -> None:
    rows = group_rows(views, torch.device(device))
    least = GROUP_VIEWS[device]
    assert rows * views >= least
    assert rows == 1 or rows * views <= MOST_RATIO * least
    assert rows * views % BATCH_STEP == 0 or (rows - 1) * views < least


@pytest.mark.parametrize(("text", "found"), [("10", ("10", 0)), ("vgg@320", ("vgg", 320))])
def test_crops_by_name_and_size(text: str, found: tuple[str, int]) -> None:
    assert crops_of(text) == found


@pytest.mark.parametrize("text", ["", "3", "10@", "10@9", "10@4000", "ten", "10@320px", "1 0"])
def test_other_words_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed are 1, 2, 10, 144, vgg, multiscale, dense"):
        crops_of(text)
