"""GeM against the formula the long way, its limits, its gradients, and inside timm's networks."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import Tensor, nn

from trainer.config import ConfigError, ModelConfig
from trainer.learn import models
from trainer.learn.pooling import GeM, gem, replace_pooling

# Each family's way to hold its pooling, at a size that a test can pay.
SEVEN = (
    "senet154",
    "resnext152d_32x4d",
    "nasnetalarge",
    "pnasnet5large",
    "inception_resnet_v2",
    "dpn98",
    "seresnet152",
    "legacy_senet154",
    "legacy_seresnet152",
)


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype) + 0.01


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Weights that keep a signal alive; timm's own random ones take seconds for a large network."""
    draw = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            scale = (2 / module.weight[0].numel()) ** 0.5
            # One row for all outputs, its sign and size by output: cheap to draw.
            row = torch.randn(module.weight[0].shape, generator=draw) * scale
            sizes = torch.randn(len(module.weight), generator=draw)
            module.weight.copy_(row * sizes.view(-1, *[1] * row.ndim))
            if module.bias is not None:
                module.bias.zero_()


def test_the_formula_the_long_way() -> None:
    x, p = noise(2, 3, 2, 2, dtype=torch.float64), 2.7
    x[0, 0, 0, 0] = -5.0  # counts as eps
    pooled = gem(x, torch.tensor(p, dtype=torch.float64))
    assert pooled.shape == (2, 3)
    for sample in range(2):
        for channel in range(3):
            powers = [max(v, 1e-6) ** p for v in x[sample, channel].flatten().tolist()]
            expected = (math.fsum(powers) / 4) ** (1 / p)
            assert pooled[sample, channel].item() == pytest.approx(expected, rel=1e-12)


def test_p_of_1_is_the_mean_of_a_positive_map() -> None:
    x = noise(2, 5, 7, 7)
    torch.testing.assert_close(gem(x, torch.tensor(1.0)), x.mean((2, 3)), rtol=1e-6, atol=0)


def test_the_larger_p_the_nearer_to_the_maximum_and_8_is_the_end() -> None:
    x = noise(2, 5, 4, 4)
    means = torch.stack([gem(x, torch.tensor(p)) for p in (1.0, 2.0, 4.0, 8.0)])
    assert (means.diff(dim=0) > 0).all()
    assert (means[-1] <= x.amax((2, 3))).all()
    assert (means[-1] >= x.amax((2, 3)) * 16 ** (-1 / 8)).all()  # all but one pixel at 0
    assert torch.equal(gem(x, torch.tensor(100.0)), means[-1])
    assert torch.equal(gem(x, torch.tensor(-3.0)), means[0])


@pytest.mark.parametrize("channels", [None, 3])
def test_gradients_are_right(channels: int | None) -> None:
    x = noise(2, 3, 2, 3, dtype=torch.float64).requires_grad_()
    p = torch.full(() if channels is None else (channels,), 2.3, dtype=torch.float64)
    if channels:
        p += torch.arange(channels)
    assert torch.autograd.gradcheck(gem, (x, p.requires_grad_()))


def test_a_channel_has_its_own_p() -> None:
    x, p = noise(2, 3, 4, 4), torch.tensor([1.0, 3.0, 6.0])
    each = [gem(x[:, [c]], p[c])[:, 0] for c in range(3)]
    torch.testing.assert_close(gem(x, p), torch.stack(each, 1))


def test_p_outside_its_range_moves_back_but_never_further_out() -> None:
    x = noise(1, 1, 4, 4)
    for start, sign, moves in (
        (1.0, 1, False),  # the loss falls with p: p would go below 1
        (1.0, -1, True),
        (0.5, 1, False),
        (0.5, -1, True),
        (9.0, 1, True),
        (9.0, -1, False),
    ):
        p = torch.tensor(start, requires_grad=True)
        (sign * gem(x, p).sum()).backward()
        assert p.grad is not None
        assert (p.grad != 0) == moves, (start, sign)


@pytest.mark.parametrize("p", [1.0, 8.0])
def test_a_channel_without_any_signal_has_finite_gradients(p: float) -> None:
    x, power = torch.zeros(1, 2, 3, 3, requires_grad=True), torch.tensor(p, requires_grad=True)
    pooled = gem(x, power)
    assert pooled.tolist() == [[pytest.approx(1e-6)] * 2]
    pooled.sum().backward()
    assert x.grad is not None
    assert power.grad is not None
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(power.grad)


def test_under_autocast_it_is_computed_in_float32() -> None:
    x = noise(2, 3, 8, 8).bfloat16()
    pool = GeM(None, 3.0)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pool(x)
        assert torch.mm(pooled, pooled.T).dtype == torch.bfloat16  # it is on outside
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, pool(x.float()))


def test_a_compiler_takes_it_whole() -> None:
    pool, x = GeM(3, 2.0), noise(2, 3, 4, 4)
    compiled = torch.compile(pool, backend="aot_eager", fullgraph=True)
    expected, got = pool(x), compiled(x)
    torch.testing.assert_close(got, expected)
    got.sum().backward()
    assert pool.p.grad is not None
    assert (pool.p.grad > 0).all()


def test_p_is_checked() -> None:
    with pytest.raises(ValueError, match=r"p is 0.5, but allowed is 1 to 8"):
        GeM(None, 0.5)


@pytest.mark.parametrize("kind", ["gem", "gem_channel"])
def test_a_network_with_p_of_1_answers_as_before(kind: str) -> None:
    torch.manual_seed(0)
    network = models.build(ModelConfig(width=0.125, stem="small"), 5).eval()
    x = torch.randn(2, 3, 32, 32)
    before = network(x)
    replace_pooling(network, kind, 1.0)  # type: ignore[arg-type]
    torch.testing.assert_close(network(x), before)
    replaced = network.get_submodule("global_pool")
    assert isinstance(replaced, GeM)
    assert replaced.p.shape == (() if kind == "gem" else (network.num_features,))


@pytest.mark.parametrize("name", SEVEN)
def test_a_recipes_network_with_p_of_1_answers_as_before(name: str) -> None:
    """So its map is nowhere negative, and the head takes the shape; dpn98's is a convolution."""
    with torch.device("meta"):
        network = models.build(ModelConfig(name=name), 10)
    fill(network.to_empty(device="cpu").eval())
    x = noise(1, 3, 75, 75)  # inception_resnet_v2's least
    with torch.no_grad():
        before = network(x)
        replace_pooling(network, "gem_channel", 1.0)
        after = network(x)
    assert network.get_submodule("global_pool").p.shape == (network.num_features,)
    assert before.std() > 1e-3, "the answer says something"
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_pooling_inside_a_head_is_found() -> None:
    network = timm.create_model("regnetx_002", num_classes=4).eval()
    replace_pooling(network, "gem", 1.0)
    assert isinstance(network.head.global_pool, GeM)
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (timm.create_model("resnet18", global_pool="max"), "network ResNet .*found: max"),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), "network Sequential .*found: none"),
    ],
)
def test_other_pooling_is_refused_naming_the_network(network: nn.Module, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        replace_pooling(network, "gem", 1.0)
    assert "\n" not in str(caught.value)
