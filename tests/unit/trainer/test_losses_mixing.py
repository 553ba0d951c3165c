"""Mixed pictures: their pixels, targets and weights."""

from __future__ import annotations

import pytest
import torch

from trainer.data.augment import generator
from trainer.learn.losses import Examples, Mix, draw_mix, one_hot
from trainer.learn.losses.cross_entropy import cross_entropy


def pictures(count: int, side: int = 2) -> torch.Tensor:
    ramp = torch.arange(count, dtype=torch.float32).view(count, 1, 1, 1)
    return ramp.expand(count, 3, side, side).clone()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_mixup_blends_each_picture_with_its_mirror_in_the_batch(count: int) -> None:
    mixed = Mix(0.75).pixels(pictures(count))
    for row in range(count):
        assert mixed[row].unique().tolist() == pytest.approx(
            [0.75 * row + 0.25 * (count - 1 - row)]
        )


def test_cutmix_pastes_a_box_and_counts_its_area() -> None:
    for number in range(200):
        mix = draw_mix(0.0, 1.0, 8, generator("cut", number))
        assert mix.box is not None
        own = pictures(2, 8)
        mixed = mix.pixels(own)
        assert own[0].sum() == 0, "the batch itself stays as it is"
        assert (mixed[0] == 0).float().mean().item() == pytest.approx(mix.share)
        assert (mixed[1] == 1).float().mean().item() == pytest.approx(mix.share)


def test_what_is_drawn_is_the_larger_share_and_off_means_off() -> None:
    shares = [draw_mix(0.2, 0.0, 8, generator("test", k)).share for k in range(200)]
    assert all(0.5 <= share <= 1 for share in shares)
    assert len(set(shares)) == 200
    assert draw_mix(0.0, 0.0, 8, generator("test")) == Mix(1.0)
    both = [draw_mix(0.2, 1.0, 8, generator("test", k)).box is None for k in range(400)]
    assert 160 < sum(both) < 240


def test_the_weighted_loss_is_the_mixture_of_both_weighted_losses() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, generator=random)
    labels = torch.tensor([0, 3, 3, 1])
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0])
    shares, mixed = Mix(0.7).shares(weights)
    targets = one_hot(labels, 5)
    examples = Examples(labels, targets, labels, torch.ones(4), shares)
    found = mixed * cross_entropy(logits, examples.mixed_targets())
    own = weights * cross_entropy(logits, targets)
    other = weights.flip(0) * cross_entropy(logits, targets.flip(0))
    assert found.tolist() == pytest.approx((0.7 * own + 0.3 * other).tolist(), rel=1e-5)


def test_a_partner_of_weight_0_gives_no_target_and_one_of_its_own_stays_at_0() -> None:
    shares, mixed = Mix(0.7).shares(torch.tensor([1.0, 0.0]))
    assert shares is not None
    assert (shares[0].item(), mixed.tolist()) == (1.0, pytest.approx([0.7, 0.0]))
    assert shares.isfinite().all()
    assert Mix(1.0).shares(torch.ones(2))[0] is None
