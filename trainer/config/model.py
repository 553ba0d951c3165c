"""The fields of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.config.fields import setting


@dataclass(frozen=True)
class ModelConfig:
    """Which network is trained."""

    name: str = setting(
        "resnet18",
        "timm model name, or resnext152d_32x4d",
        "small enough for a laptop; recipes name theirs",
        required=True,
    )
    num_classes: int = setting(
        0,
        "number of classes; 0 takes the dataset's",
        "the dataset's manifest knows it",
        unit="classes",
        least=0,
    )
    width: float = setting(
        1.0,
        "channel width factor of resnet18 (others: 1)",
        "the published network",
        unit="ratio",
        above=0,
        most=4,
    )
    stem: Literal["default", "small"] = setting(
        "default",
        "small: 3x3 stride-1 stem without pooling, for inputs up to 64 px (ResNets)",
        "the published network",
    )
    drop_rate: float = setting(
        0.0,
        "dropout before the classifier",
        "the published recipes use none",
        unit="ratio",
        least=0,
        most=0.95,
    )
    head: Literal["linear", "heteroscedastic"] = setting(
        "linear",
        "classifier: linear, or with a noise that each picture sets",
        "the published networks",
    )
    head_temperature: float = setting(
        1.0,
        "heteroscedastic: what the noisy logits are divided by",
        "to be tuned on validation",
        unit="1",
        above=0,
        most=10,
    )
    pool: Literal["default", "gem", "gem_channel"] = setting(
        "default",
        "pooling before the classifier; gem: generalised mean with one learnt power, gem_channel:"
        " with one a channel; default: the network's own average",
        "the published networks average",
    )
    pool_p: float = setting(
        1.0,
        "power that gem starts from; 1 averages, larger ones near the maximum",
        "leaves the answers of pretrained weights as they are",
        unit="1",
        least=1,
        most=8,
    )
    pretrained: str = setting(
        "",
        "address of a .safetensors file (file:// or s3://) whose weights a new run begins with, by"
        " name: a published network or a checkpoint of ours; a classifier of another number of"
        " classes begins anew; empty: random weights",
        "the published recipes train from random weights",
    )

    @property
    def network(self) -> str:
        """The network in words; where they are equal, weights of one run fit another's.

        But for the classifier, which depends on the classes, and the powers of the pooling.
        """
        words = self.name if self.width == 1 else f"{self.name} of width {self.width:g}"
        return words if self.stem == "default" else f"{words} with a {self.stem} stem"
