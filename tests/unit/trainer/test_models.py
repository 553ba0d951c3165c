"""The networks that timm does not offer as we need them, and the errors for unknown names."""

from __future__ import annotations

import re

import pytest
import torch

from trainer.config import ConfigError, ModelConfig
from trainer.learn import models


def parameters_m(network: torch.nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_resnext152d_has_its_published_size() -> None:
    with torch.device("meta"):
        network = models.build(ModelConfig(name="resnext152d_32x4d"), 1000)
    assert parameters_m(network) == pytest.approx(59.97, abs=0.01)


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
