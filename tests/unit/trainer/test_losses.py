"""Losses against values computed the long way."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.data.augment import generator
from trainer.learn import losses


def test_cross_entropy_is_the_smoothed_sum_the_long_way() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
    labels = torch.tensor([0, 1])
    for smoothing in (0.0, 0.1):
        found = losses.cross_entropy(logits, labels, smoothing)
        for row, label in enumerate(labels.tolist()):
            log_sum = math.log(sum(math.exp(z) for z in logits[row].tolist()))
            expected = 0.0
            for k, z in enumerate(logits[row].tolist()):
                target = (1 - smoothing) * (k == label) + smoothing / 3
                expected -= target * (z - log_sum)
            assert found[row].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_mixup_mixes_each_picture_with_its_mirror_in_the_batch(count: int) -> None:
    pixels = torch.arange(count, dtype=torch.float32).view(count, 1, 1, 1).expand(count, 3, 2, 2)
    mixed = losses.mixup(pixels, 0.75)
    for row in range(count):
        assert mixed[row].unique().tolist() == pytest.approx(
            [0.75 * row + 0.25 * (count - 1 - row)]
        )


def test_the_loss_of_mixed_pictures_is_the_cross_entropy_of_the_mixed_target() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 3, 3, 1])
    own = losses.cross_entropy(logits, labels, 0.0)
    other = losses.cross_entropy(logits, labels.flip(0), 0.0)
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    target = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    expected = -(target * logits.float().log_softmax(1)).sum(1)
    assert losses.mixed(own, other, 0.7).tolist() == pytest.approx(expected.tolist())


def test_shares_are_the_larger_part_and_off_means_off() -> None:
    shares = [losses.mixup_share(0.2, generator("test", k)) for k in range(200)]
    assert all(0.5 <= share <= 1 for share in shares)
    assert len(set(shares)) == 200
    assert losses.mixup_share(0.0, generator("test")) == 1.0
