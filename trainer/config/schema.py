"""The fields of a training run, but for those of its network, its loss and its updates."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config.augment import AugmentConfig
from trainer.config.fields import section, setting
from trainer.config.losses import LossConfig
from trainer.config.model import ModelConfig
from trainer.config.update import OptimConfig, UpdateConfig


@dataclass(frozen=True)
class DataConfig:
    """Where the shards are and in which order samples come."""

    train: str = setting(
        "",
        "address of the packed training set (file:// or s3://)",
        "no dataset is everybody's",
        required=True,
    )
    val: str = setting("", "address of the packed validation set; empty: no evaluation", "optional")
    lanes: int = setting(
        192,
        "parallel sequences of shards; the most ranks a run may have",
        "divides evenly over 32, 48 and 64 ranks",
        unit="lanes",
        least=1,
        most=65536,
    )
    window: int = setting(
        4096,
        "samples shuffled together within a lane",
        "spans about 9 shards of 500: mixed, yet a bounded cache",
        unit="samples",
        least=1,
    )
    selection: str = setting(
        "",
        "address of a .npy of sorted sample ids to train on; empty: all",
        "the full set is the baseline",
    )
    weights: str = setting(
        "",
        "address of a .npy of float32 loss weights by id; empty: all 1",
        "the full set is the baseline",
    )
    sampling: str = setting(
        "",
        "address of a .npy of float32 weights by id, in proportion to which samples are seen in an"
        " epoch; empty: each once",
        "the full set is the baseline",
    )
    cache_dir: str = setting(
        "", "folder for fetched shards; empty: $TMPDIR/shards", "node-local scratch"
    )
    cache_bytes: int = setting(
        64 << 30,
        "most bytes of cached shards on a node",
        "96 lanes of a 4,096 window need about 60 GB",
        unit="bytes",
        least=1 << 20,
    )
    loader_processes: int = setting(
        2,
        "decoding processes per rank; 0 decodes in the training process",
        "keeps a small GPU fed",
        unit="processes",
        least=0,
        most=256,
    )
    prefetch: int = setting(
        4,
        "micro-batches decoded ahead per loader process",
        "hides one slow shard fetch",
        unit="batches",
        least=1,
        most=64,
    )


@dataclass(frozen=True)
class InputConfig:
    """How a picture becomes the network's input."""

    size_px: int = setting(
        224,
        "side of the square training crop",
        "most networks' size",
        unit="px",
        least=16,
        most=2048,
    )
    start_px: int = setting(
        0,
        "side of the training crop in the first epoch, growing to size_px; 0: size_px throughout",
        "the published recipes keep one size",
        unit="px",
        least=0,
        most=2048,
    )
    grow_epochs: float = setting(
        0.0,
        "span over which the training crop grows from start_px",
        "with start_px, most of the run",
        unit="epochs",
        least=0,
    )
    crop_ratio: float = setting(
        0.875,
        "evaluation: crop side over resized short side",
        "224 of 256, the usual pair",
        unit="ratio",
        above=0.1,
        most=1,
    )
    scale_least: float = setting(
        0.08,
        "RandomResizedCrop: smallest area of the crop",
        "torchvision's and the team's",
        unit="ratio",
        above=0,
        most=1,
    )
    flip: float = setting(
        0.5, "probability of a horizontal flip", "the usual", unit="ratio", least=0, most=1
    )
    mean: tuple[float, float, float] = setting(
        (0.485, 0.456, 0.406),
        "channel means of 0-1 pixels",
        "ImageNet's",
        unit="ratio",
        least=0,
        most=1,
    )
    std: tuple[float, float, float] = setting(
        (0.229, 0.224, 0.225),
        "channel standard deviations",
        "ImageNet's",
        unit="ratio",
        above=0,
        most=1,
    )


@dataclass(frozen=True)
class EvaluateConfig:
    """Validation during the run."""

    every_epochs: float = setting(
        1.0, "span between evaluations", "once an epoch", unit="epochs", above=0
    )
    batch: int = setting(
        64,
        "samples per forward pass of a rank",
        "no gradients, so larger than training's",
        unit="samples",
        least=1,
        most=8192,
    )


@dataclass(frozen=True)
class CheckpointConfig:
    """Where and how often the state is kept."""

    address: str = setting(
        "",
        "the run's folder (file:// or s3://): checkpoints, metrics, resolved run",
        "no store is everybody's",
        required=True,
    )
    every_epochs: float = setting(
        0.25,
        "span between checkpoints by samples seen",
        "bounds lost work where epochs are long",
        unit="epochs",
        above=0,
    )
    every_s: float = setting(
        600.0,
        "longest time between checkpoints",
        "bounds lost work on 64 GPUs to 11 GPU-hours",
        unit="s",
        above=0,
    )
    keep_last: int = setting(
        3, "newest complete checkpoints kept", "two may be torn", unit="checkpoints", least=1
    )
    keep_best: int = setting(
        1, "best by validation top-1 kept", "the ensemble takes it", unit="checkpoints", least=0
    )
    deadline_s: float = setting(
        200.0,
        "longest time for one save; also the last one before the grace period ends",
        "below the shutdown time-out of 240 s",
        unit="s",
        above=0,
    )


@dataclass(frozen=True)
class LogConfig:
    """What is told while training."""

    every_s: float = setting(
        10.0, "span between log lines", "a person can follow it", unit="s", least=0
    )
    metrics_port: int = setting(
        9090,
        "port of rank 0's Prometheus endpoint; 0: off",
        "Prometheus' own; a PodMonitor finds it by its name, metrics",
        unit="port",
        least=0,
        most=65535,
    )
    margins: bool = setting(
        False,
        "record each sample's mean margin in the checkpoints, for launcher noise",
        "8 bytes a sample on each GPU",
    )
    audit_dir: str = setting(
        "",
        "folder where each rank records the sample ids of every update; empty: off",
        "only audits and tests need it",
    )


@dataclass(frozen=True)
class WorldConfig:
    """How ranks find, watch and leave each other."""

    timeout_s: float = setting(
        600.0,
        "longest wait in a collective",
        "NCCL hangs for up to 2 h otherwise",
        unit="s",
        above=0,
    )
    stall_s: float = setting(
        900.0,
        "no batch for this long: dump stacks and end the process; 0: off",
        "above the slowest start",
        unit="s",
        least=0,
    )
    threads: int = setting(
        0, "CPU threads per rank; 0: torch's default", "torchrun sets 1", unit="threads", least=0
    )


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    name: str = setting(
        "run",
        "name of the run in logs and metrics",
        "the launcher sets the job's name",
        required=True,
    )
    seed: int = setting(
        0, "seed of order, augmentation and initial weights", "any", unit="1", least=0, most=2**31
    )
    epochs: float = setting(
        120.0, "length of the run", "the team's stage 1", unit="epochs", above=0
    )
    model: ModelConfig = section(ModelConfig, "which network")
    data: DataConfig = section(DataConfig, "shards and order")
    input: InputConfig = section(InputConfig, "pictures to tensors")
    augment: AugmentConfig = section(AugmentConfig, "what else happens to training pictures")
    optim: OptimConfig = section(OptimConfig, "optimiser and schedule")
    update: UpdateConfig = section(UpdateConfig, "one update")
    loss: LossConfig = section(LossConfig, "what an update lowers")
    evaluate: EvaluateConfig = section(EvaluateConfig, "validation")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "kept state")
    log: LogConfig = section(LogConfig, "log and metrics")
    world: WorldConfig = section(WorldConfig, "ranks")


def lane_balance(lanes: int, world: int) -> float:
    """Mean over largest number of lanes a rank holds: 1 is even, 0.75 wastes a quarter.

    lanes, world: counts with 1 <= world <= lanes.
    """
    return lanes / world / -(-lanes // world)
