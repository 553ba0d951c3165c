"""Networks by name: timm's, and the two that it does not offer as we need them."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from timm.models import group_parameters
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from trainer.config import ConfigError, ModelConfig
from trainer.learn.heads import replace_head
from trainer.learn.pooling import replace_pooling


def build(config: ModelConfig, num_classes: int) -> nn.Module:
    """The network with random weights, the configured pooling and a head of num_classes.

    Raises ConfigError where the name is unknown or a field does not fit the network.
    """
    network = _by_name(config, num_classes)
    if config.pool != "default":
        replace_pooling(network, config.pool, config.pool_p)
    elif config.pool_p != 1:
        raise ConfigError(
            f"model.pool_p is {config.pool_p:g}, but model.pool is default, which has no power;"
            " set model.pool to gem or gem_channel, or leave model.pool_p at 1"
        )
    if config.head == "heteroscedastic":
        replace_head(network, head_name(network), config.head_temperature)
    return network


def _by_name(config: ModelConfig, num_classes: int) -> nn.Module:
    if config.name == "resnet18":
        return resnet18(num_classes, config.width, config.stem, config.drop_rate)
    if config.width != 1 or config.stem != "default":
        raise ConfigError(
            f"model.width and model.stem change resnet18 only, but model.name is {config.name!r};"
            " leave them at 1 and default"
        )
    if config.name == "resnext152d_32x4d":
        return resnext152d_32x4d(num_classes, config.drop_rate)
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, timm.list_models(), 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"model.name is {config.name!r}, but timm has no such network{hint}")
    network = timm.create_model(
        config.name, pretrained=False, num_classes=num_classes, drop_rate=config.drop_rate
    )
    assert isinstance(network, nn.Module)
    return network


def resnext152d_32x4d(num_classes: int, drop_rate: float = 0.0) -> nn.Module:
    """ResNeXt-152 32x4d in its D form: deep narrow stem, average-pooled shortcuts, zero-gamma.

    60.0 M parameters and 11.95 GMAC at 224 px with 1,000 classes. Sources: Xie et al.,
    arXiv:1611.05431; the D form: He et al., arXiv:1812.01187.
    """
    block: Any = Bottleneck  # timm's hint says an instance, its code takes the class
    network: nn.Module = ResNet(
        block,
        (3, 8, 36, 3),
        num_classes=num_classes,
        cardinality=32,
        base_width=4,
        stem_width=32,
        stem_type="deep",
        avg_down=True,
        zero_init_last=True,
        drop_rate=drop_rate,
    )
    return network


def resnet18(num_classes: int, width: float, stem: str, drop_rate: float = 0.0) -> nn.Module:
    """ResNet-18 with all channels times `width`, rounded to a multiple of 8.

    stem: "small" takes a 3x3 convolution of stride 1 without pooling, so that pictures of 32 to
    64 px are not shrunk to nothing. Source: He et al., arXiv:1512.03385.
    """
    channels = tuple(max(8, round(c * width / 8) * 8) for c in (64, 128, 256, 512))
    block: Any = BasicBlock
    network: Any = ResNet(
        block,
        (2, 2, 2, 2),
        num_classes=num_classes,
        channels=channels,
        drop_rate=drop_rate,
    )
    if width != 1 or stem == "small":
        kernel, stride = (3, 1) if stem == "small" else (7, 2)
        network.conv1 = convolution(3, channels[0], kernel, stride)
    if width != 1:  # timm's stem is 64 channels wide whatever the stages are
        network.bn1 = nn.BatchNorm2d(channels[0])
        network.layer1[0].conv1 = convolution(channels[0], channels[0], 3, 1)
        network.layer1[0].downsample = None
    if stem == "small":
        network.maxpool = nn.Identity()
    assert isinstance(network, nn.Module)
    return network


def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    """A convolution without bias, initialised as ResNet's."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def head_name(network: nn.Module) -> str:
    """The classifier's name within a timm network."""
    wanted = network.get_classifier()  # type: ignore[operator]
    names: list[str] = [name for name, part in network.named_modules() if part is wanted]
    return names[0]


def stage_of(network: nn.Module) -> dict[str, int]:
    """The stage of each parameter by name: 0 the stem, then the network's stages or cells.

    As timm groups them; the classifier and what stands beside it come last.
    """
    matcher = network.group_matcher(coarse=True)  # type: ignore[operator]
    layers: dict[str, int] = group_parameters(network, matcher, reverse=True)
    order = {layer: number for number, layer in enumerate(sorted(set(layers.values())))}
    return {name: order[layer] for name, layer in layers.items()}
