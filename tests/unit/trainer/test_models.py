"""The networks that timm does not offer as we need them, and the errors for unknown names."""

from __future__ import annotations

import re

import pytest
import torch
from timm.models.resnet import Bottleneck
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import ConfigError, ModelConfig
from trainer.learn import models

# Counted on timm 1.0.31 for one picture: size_px, parameters in 10^6 with 1,000 and with 5,000
# classes, and 10^9 multiply-accumulates of convolutions and matrix products.
SIZES = [
    ("nasnetalarge", 331, 88.75, 104.89, 23.78),
    ("pnasnet5large", 331, 86.06, 103.34, 24.94),
    ("senet154", 224, 115.09, 123.28, 20.69),
    ("legacy_senet154", 224, 115.09, 123.28, 20.69),
    ("resnext152d_32x4d", 224, 59.97, 68.17, 11.95),
    ("inception_resnet_v2", 299, 55.84, 61.99, 13.16),
    ("dpn98", 224, 61.57, 72.33, 11.67),
    ("seresnet152", 224, 66.82, 75.02, 11.52),
    ("legacy_seresnet152", 224, 66.82, 75.02, 11.29),  # strides in the 1x1 convolution
]


def parameters_m(network: torch.nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def macs_g(network: torch.nn.Module, size_px: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, size_px, size_px, device="meta"))
    return counter.get_total_flops() / 2 / 1e9


@pytest.mark.parametrize(("name", "size_px", "params_m", "params_5k_m", "gmac"), SIZES)
def test_the_recipes_networks_have_their_published_sizes(
    name: str, size_px: int, params_m: float, params_5k_m: float, gmac: float
) -> None:
    for num_classes, expected in ((1000, params_m), (5000, params_5k_m)):
        with torch.device("meta"):
            network = models.build(ModelConfig(name=name), num_classes).eval()
        assert parameters_m(network) == pytest.approx(expected, rel=0.005)
        if num_classes == 1000:
            assert macs_g(network, size_px) == pytest.approx(gmac, rel=0.005)


def test_the_last_norm_of_every_block_of_resnext152d_begins_at_zero() -> None:
    """So each block begins as its shortcut alone."""
    network = models.build(ModelConfig(name="resnext152d_32x4d"), 2)
    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    assert len(blocks) == 3 + 8 + 36 + 3
    assert all((block.bn3.weight == 0).all() for block in blocks)
    assert all((block.bn2.weight == 1).all() for block in blocks)
    shortcuts = [block.downsample for block in blocks if block.downsample is not None]
    assert len(shortcuts) == 4
    assert all((norm.weight == 1).all() for *_, norm in shortcuts)


def test_resnet18_is_timms_at_full_width() -> None:
    import timm

    ours, theirs = models.build(ModelConfig(), 10), timm.create_model("resnet18", num_classes=10)
    shapes = [{k: tuple(v.shape) for k, v in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("width", "stem", "size"), [(0.25, "small", 32), (0.5, "default", 64)])
def test_a_narrow_resnet18_takes_small_pictures(width: float, stem: str, size: int) -> None:
    config = ModelConfig(width=width, stem=stem)  # type: ignore[arg-type]
    network = models.build(config, 7).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)
    assert parameters_m(network) < 3


def test_pooling_is_as_configured() -> None:
    learnt = models.build(ModelConfig(width=0.125, pool="gem", pool_p=1.5), 7)
    assert learnt.get_parameter("global_pool.p").item() == 1.5
    each = models.build(ModelConfig(width=0.125, pool="gem_channel"), 7)
    assert each.get_parameter("global_pool.p").shape == (each.num_features,)
    names = models.build(ModelConfig(width=0.125), 7).state_dict().keys()
    assert "global_pool.p" not in names


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ModelConfig(name="resnet19"), "model.name is 'resnet19', .*did you mean resnet1"),
        (ModelConfig(name="zzz"), "model.name is 'zzz', but timm has no such network"),
        (ModelConfig(name="dpn98", width=0.5), "model.width .* 'dpn98'"),
        (ModelConfig(pool_p=3), "model.pool_p is 3, but model.pool is default"),
        (
            ModelConfig(name="vit_tiny_patch16_224", pool="gem"),
            "model.pool is 'gem', .* network Vi",
        ),
    ],
)
def test_wrong_names_are_one_line(config: ModelConfig, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        models.build(config, 10)
    assert re.search(said, str(caught.value))
    assert "\n" not in str(caught.value)
