"""The fields of an update: what moves the weights, and over how many samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.config.fields import setting


@dataclass(frozen=True)
class OptimConfig:
    """What moves the weights, and how fast: linear warm-up, cosine to the end."""

    name: Literal["sgd", "lars", "lamb"] = setting(
        "sgd",
        "SGD, or timm's LARS or LAMB for very large batches",
        "the team's; the others read from the device once an update",
    )
    lr: float = setting(
        0.1,
        "peak learning rate for the global batch",
        "0.1 at batch 256 is the team's",
        unit="1",
        above=0,
        most=100,
    )
    lr_end: float = setting(
        0.0, "learning rate at the end", "cosine to 0", unit="1", least=0, most=100
    )
    momentum: float = setting(0.9, "SGD momentum", "the team's", unit="ratio", least=0, most=0.999)
    nesterov: bool = setting(True, "Nesterov momentum", "the team's")
    weight_decay: float = setting(
        1e-4,
        "L2 decay of weights; none on biases and norms",
        "the team's",
        unit="1",
        least=0,
        most=1,
    )
    layer_decay: float = setting(
        1.0,
        "learning rate of a stage over that of the next one up; 1: all alike",
        "training from the start; below 1 for fine-tuning",
        unit="ratio",
        above=0,
        most=1,
    )
    pool_lr_ratio: float = setting(
        10.0,
        "learning rate of GeM's p, times the others'",
        "one number among millions of weights would hardly move",
        unit="ratio",
        least=0,
        most=1000,
    )
    warmup_epochs: float = setting(5.0, "linear warm-up", "the team's", unit="epochs", least=0)
    clip_norm: float = setting(
        0.0,
        "largest global gradient norm; 0: no clipping",
        "the team clipped nothing",
        unit="1",
        least=0,
    )


@dataclass(frozen=True)
class UpdateConfig:
    """One optimiser step over the global batch."""

    global_batch: int = setting(
        192,
        "samples per update, whatever the number of workers",
        "a multiple of the lanes keeps ranks balanced",
        unit="samples",
        least=1,
        most=1 << 20,
    )
    micro_batch: int = setting(
        32,
        "samples per forward pass of a rank, halved until they fit into a GPU's memory; batch norms"
        " average over them; 0: a GPU's whole share of the update, on CPUs at most 32",
        "fits the seven networks into 16 GB",
        unit="samples",
        least=0,
        most=4096,
    )
    grad_checkpointing: Literal["auto", "always", "never"] = setting(
        "auto",
        "compute blocks again on the way back instead of keeping all activations: a third slower,"
        " a fraction of the memory; auto: where less than a quarter of the micro-batch fits a GPU"
        " without it",
        "costs nothing where memory is enough",
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        "auto: bf16 where the device has it and is faster by timing",
        "11 times slower on CPUs without it",
    )
    layout: Literal["auto", "nchw", "nhwc"] = setting(
        "auto",
        "memory layout; auto: the faster by timing",
        "SENet154 loses 35 % with nhwc, ResNets gain",
    )
    compile: bool = setting(
        False, "torch.compile the network", "43 s of start-up; worth it on long runs"
    )
    label_smoothing: float = setting(
        0.1,
        "share of the target spread over classes",
        "the team's",
        unit="ratio",
        least=0,
        most=0.9,
    )
    mixup: float = setting(
        0.2, "alpha of the Beta distribution; 0: off", "the team's", unit="1", least=0, most=10
    )
    cutmix: float = setting(
        0.0,
        "alpha of the Beta distribution; 0: off; with mixup, every other micro-batch",
        "the team used none",
        unit="1",
        least=0,
        most=10,
    )
    ema_half_life_epochs: float = setting(
        0.5,
        "half-life of the averaged weights; 0: no average",
        "decay .9999 at batch 1024 on 16 M images",
        unit="epochs",
        least=0,
    )
    nonfinite_limit: int = setting(
        10,
        "updates in a row with a non-finite loss or gradient before the run ends",
        "one is skipped, ten are a defect",
        unit="updates",
        least=1,
    )
