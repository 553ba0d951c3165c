"""The fields of an ensemble's predictions: which runs, which crops of which data, how computed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from trainer.config.fields import setting
from trainer.config.loading import ConfigError

CROPS = ("1", "2", "10", "144", "vgg", "multiscale", "dense")
"""Crop sets by name; `NAME@SIZE` takes another input size than the run's own."""
Objective = Literal["top1", "top5", "class-top1", "class-top5"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
"""What a combination is chosen by: hits over pictures, or the mean over classes."""
SUBMISSION_FILE = "predictions.txt"
"""What a submission's zip holds."""
SUBMISSION_LABELS = 5
"""Labels of a line: the measure is the top-5 error."""
_CROPS = re.compile(r"({})(?:@([0-9]{{2,4}}))?".format("|".join(CROPS)))
SIZES_PX = range(16, 2049)


@dataclass(frozen=True)
class EnsembleConfig:
    """The predictions of several runs for one dataset."""

    name: str = setting("ensemble", "name in logs", "the launcher sets the job's name")
    data: str = setting(
        "",
        "address of the packed dataset; one packed from a test list needs no labels",
        "no dataset is everybody's",
        required=True,
    )
    output: str = setting(
        "", "address of the folder that everything is written to", "no folder is everybody's",
        required=True,
    )  # fmt: skip
    runs: tuple[str, ...] = setting(
        (), "the runs' checkpoint.address, each of another name", "no run is everybody's",
        required=True,
    )  # fmt: skip
    which: Literal["best", "newest"] = setting(
        "best", "of each run: the checkpoint of the best validation top-1, or the last", "the best"
    )
    crops: tuple[str, ...] = setting(
        ("10",),
        "crop sets: 1, 2, 10, 144 (GoogLeNet's), vgg (150), multiscale, dense; 10@320 takes"
        " another input size than each run's own",
        "most of the gain of many crops",
    )
    form: Literal["probabilities", "logits"] = setting(
        "probabilities", "what is averaged over the crops and kept, as float16", "the usual mean"
    )
    precision: Literal["auto", "fp32", "bf16", "int8"] = setting(
        "auto",
        "auto: the faster of fp32 and bf16, measured when a network's predictions begin; int8 is"
        " torchao's, on CPUs, with ranges measured on the first pictures",
        "int8 costs accuracy: measure it",
    )
    layout: Literal["auto", "nchw", "nhwc"] = setting(
        "auto",
        "order of the numbers in memory; auto: the faster one, measured",
        "differs by network",
    )
    compile: Literal["auto", "on", "off", "tensorrt"] = setting(
        "auto",
        "compile and freeze the networks; auto: where a compiler is and the crops are many;"
        " tensorrt: by torch-tensorrt, on a GPU that has it",
        "3 times as fast on a CPU, after about a minute",
    )
    batch: int = setting(
        0, "crops of a forward pass; 0: the fastest, measured", "differs by device",
        unit="crops", least=0, most=65536,
    )  # fmt: skip
    part_samples: int = setting(
        1024,
        "pictures of a part: what a killed process computes again at most",
        "minutes on a CPU",
        unit="samples",
        least=1,
        most=1 << 20,
    )
    loader_processes: int = setting(
        1, "processes that decode; 0: none but the own", "one keeps a CPU's forward passes fed",
        unit="processes", least=0, most=256,
    )  # fmt: skip
    cache_dir: str = setting(
        "", "folder for what is fetched; empty: $TMPDIR/shards", "node-local scratch"
    )


def check_ensemble(config: EnsembleConfig) -> None:
    """Raises ConfigError where crops are not of the allowed kind, or something is named twice."""
    for crops in config.crops:
        crops_of(crops)
    for key, given in (("runs", config.runs), ("crops", config.crops)):
        twice = next((each for i, each in enumerate(given) if each in given[:i]), None)
        if twice is not None:
            raise ConfigError(f"{key} names {twice!r} twice; name each once")


def crops_of(text: str) -> tuple[str, int]:
    """A crop set's name and input size in pixels, 0 for each run's own. Raises ConfigError."""
    found = _CROPS.fullmatch(text)
    size = int(found[2] or 0) if found else 0
    if not found or (size and size not in SIZES_PX):
        raise ConfigError(
            f"crops is {text!r}; allowed are {', '.join(CROPS)}, or one of them with an input size"
            f" from {SIZES_PX[0]} to {SIZES_PX[-1]} px as 10@320"
        )
    return found[1], size
