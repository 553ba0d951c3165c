"""An ensemble's predictions, made of what the command line says; and what combining them found."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import settings
from launcher.errors import UsageError
from launcher.parts import check_said, indexes_of
from launcher.placing import absolute
from launcher.request import IndexedRequest, Work
from launcher.spec import check_address
from trainer.config import ConfigError, EnsembleConfig, check_ensemble

INDEX_SAMPLES = 8192
"""Pictures of one index: a few minutes on a GPU, an hour on few cores."""

SINGLES_HEAD = (
    "MEMBER",
    "NETWORK",
    "CROPS",
    "SIZE",
    "TOP-1",
    "TOP-5",
    "CLASS TOP-1",
    "CLASS TOP-5",
)
METHODS_HEAD = ("METHOD", "TOP-1", "TOP-5", "CLASS TOP-1", "CLASS TOP-5", "95 %", "TO THE MEAN", "")
MEMBERS_HEAD = ("MEMBER", "CROPS", "TEMPERATURE", "ECE", "CALIBRATED", "ADDS")
RATIOS = ("top1", "top5", "class_top1", "class_top5")


@dataclass(frozen=True)
class Wishes:
    """What is asked of an ensemble's predictions, beside overrides."""

    data: str
    runs: tuple[str, ...]
    crops: tuple[str, ...]


def work(request: IndexedRequest, wishes: Wishes) -> Work:
    """What the indexes of the job do. Raises UsageError where data or runs are not said."""
    known = settings.load(os.environ, Path.cwd())
    data = check_address(wishes.data or known.get("val"), "--data")
    wanted = ("--data", "data", data), ("--run", "runs", wishes.runs)
    check_said(request, "ensemble", wanted)
    config = EnsembleConfig(
        data=absolute(request, data),
        runs=tuple(absolute(request, run) for run in wishes.runs),
    )
    if wishes.crops:
        config = dataclasses.replace(config, crops=wishes.crops)
    try:
        check_ensemble(config)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    return Work(
        program="trainer.ensemble",
        config=config,
        indexes=1 if request.local else indexes_of(data, INDEX_SAMPLES),
        stage="ensemble",
        parallelism=1 if request.local else 8,
    )


def single_rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each member and crop set."""
    for each in found["singles"]:
        yield (
            each["member"],
            each["model"],
            each["crops"],
            str(each["size_px"]),
            *(_percent(each["scores"][key]) for key in RATIOS),
        )


def member_rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each member that is combined: how far its probabilities could be trusted, and by
    how much the mean is better with it."""
    for each in found["members"]:
        errors = (_percent(each[key]) for key in ("ece_before", "ece_after"))
        adds = _signed(each["adds"]) if each["adds"] else "-"
        yield each["member"], each["crops"], f"{each['temperature']:.2f}", *errors, adds


def method_rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each way to combine, by what it is worth on pictures it was not fitted on."""
    for each in found["methods"]:
        score = each["score"]
        marks = [word for word in ("advised", "chosen") if found[word] == each["method"]]
        yield (
            each["method"],
            *(_percent(each["scores"][key]) for key in RATIOS),
            f"{_percent(score['low'])}-{_percent(score['high'])}",
            _signed(each["gain"]),
            ", ".join(marks),
        )


def class_rows(items: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A row for each picture and likely class; one for a picture that cannot be read."""
    for item in items:
        if item["error"]:
            yield item["image"], "-", "-", f"cannot be read: {item['error']}"
        for each in item["classes"]:
            p = f"{100 * each['probability']:.2f}%"
            yield item["image"], p, str(each["label"]), each["name"]


def _signed(interval: dict[str, float]) -> str:
    """In points of percent, with its 95 % interval."""
    value, low, high = (100 * interval[key] for key in ("value", "low", "high"))
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.2f}%"
