"""Predictions of networks by crop set, part by part: made once, checked, never made again.

    <output>/members/<name>/<crops>/<key>/000000.json    pieces, see trainer.pieces
    <output>/members/<name>/<crops>.json                 written when all are there: what they are

Letters: g pictures of a group, K classes.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import DataConfig, EnsembleConfig
from trainer.data.shards import Dataset
from trainer.infer.crops import CropSet, Views, crops_for
from trainer.infer.forward import Forward
from trainer.infer.members import Member, asked
from trainer.infer.views import Group, groups
from trainer.pieces import Pieces, Span
from trainer.storage import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A network and a crop set whose predictions are to be there."""

    member: Member
    spec: str
    """The crop set as it was named."""
    crops: CropSet
    form: str
    pieces: Pieces

    @property
    def title(self) -> str:
        return f"{self.member.name}/{self.spec}"


def tasks_of(config: EnsembleConfig, dataset: Dataset, members: Sequence[Member]) -> list[Task]:
    """Every member with every crop set."""
    return [_task(config, dataset, member, spec) for member in members for spec in config.crops]


def _task(config: EnsembleConfig, dataset: Dataset, member: Member, spec: str) -> Task:
    input = member.source.config.input
    crops = crops_for(spec, input)
    made_of = [
        dataset.sha256, member.checkpoint, input.mean, input.std, input.crop_ratio, input.flip > 0,
        crops.name, crops.size_px, config.form, config.part_samples, *asked(config),
    ]  # fmt: skip
    pieces = Pieces.of(config.output, f"{member.folder}/{spec}", made_of)
    return Task(member, spec, crops, config.form, pieces)


@dataclass(frozen=True)
class Asking:
    """A task with its network at hand."""

    task: Task
    forward: Forward

    def answers(self, group: Group) -> Tensor:
        """(g, K) float32 on the CPU."""
        return mean_answer(self.forward, self.task.crops, group.views, self.task.form)


def mean_answer(
    forward: Forward, crops: CropSet, views: Mapping[Views, Tensor], form: str
) -> Tensor:
    """(g, K) float32 on the CPU: over all views the mean of probabilities, or of logits.

    views: (g, V, 3, s, s) uint8 of each kind that the crop set has.
    """
    total = torch.zeros(())
    for kind in crops.views:
        rows = len(views[kind])
        for mirrored in (False, True) if crops.mirrored else (False,):
            logits = forward(views[kind].flatten(0, 1), mirrored=mirrored)
            each = logits.softmax(1) if form == "probabilities" else logits
            total = total.to(each.device) + each.view(rows, kind.number, -1).sum(1)
    return (total / crops.number).cpu()


def fill(
    missing: dict[int, list[Asking]],
    spans: Sequence[Span],
    dataset: Dataset,
    rows: int,
    config: EnsembleConfig,
    cache_dir: Path,
) -> None:
    """Makes the parts that are missing. missing: by a span's number, who has not answered it.

    rows: pictures of a group. Numbers may differ in their last digits with the pictures that a
    forward pass has together, so it must not depend on what is missing.
    """
    for askings, several in itertools.groupby(spans, lambda span: missing[span.number]):
        if askings:  # neighbours that lack the same share their loader
            _fill(askings, list(several), dataset, rows, config, cache_dir)


def _fill(
    askings: list[Asking],
    spans: list[Span],
    dataset: Dataset,
    rows: int,
    config: EnsembleConfig,
    cache_dir: Path,
) -> None:
    kinds = tuple(dict.fromkeys(kind for each in askings for kind in each.task.crops.views))
    data = DataConfig(loader_processes=config.loader_processes, prefetch=2)
    pin = askings[0].forward.device.type == "cuda"
    source = groups(dataset, data, kinds, [span.ids for span in spans], rows, cache_dir, pin=pin)
    for span in spans:
        began = time.monotonic()
        answers, read, damaged = _collected(askings, source, span)
        for name in damaged:
            logger.warning("cannot be read: %s", name)
        for asking, found in zip(askings, answers, strict=True):
            asking.task.pieces.keep(span, {asking.task.form: found, "read": read})
        rate = span.rows / (time.monotonic() - began)
        titles = ", ".join(asking.task.title for asking in askings)
        logger.info(
            "pictures from %d: %d, %.1f a second by %s", span.first, span.rows, rate, titles
        )


def _collected(
    askings: list[Asking], source: Iterator[Group], span: Span
) -> tuple[list[NDArray[np.float16]], NDArray[np.bool_], list[str]]:
    """The answers of each about a span's pictures, which of these could be read, and which not."""
    answers: list[list[NDArray[np.float16]]] = [[] for _ in askings]
    read: list[NDArray[np.bool_]] = []
    damaged: list[str] = []
    while sum(map(len, read)) < span.rows:
        group = next(source)
        read.append(group.read.numpy())
        damaged += group.damaged
        for asking, parts in zip(askings, answers, strict=True):
            parts.append(asking.answers(group).numpy().astype(np.float16))
    return [np.concatenate(parts) for parts in answers], np.concatenate(read), damaged


def describe(store: Store, task: Task, dataset: Dataset, manner: str, part_samples: int) -> None:
    """Writes down what a task's predictions are, once all of them are there.

    manner: key of the record that says how the network was asked.
    """
    source = task.member.source
    record = {
        "schemaVersion": 1,
        "member": task.member.name,
        "run": source.address,
        "model": source.config.model.name,
        "update": source.manifest.update,
        "checkpoint": task.member.checkpoint,
        "crops": task.spec,
        "num_crops": task.crops.number,
        "size_px": task.crops.size_px,
        "form": task.form,
        "pieces": task.pieces.prefix,
        "manner": manner,
        "data": dataset.address,
        "dataset_sha256": dataset.sha256,
        "num_samples": dataset.num_samples,
        "part_samples": part_samples,
        "num_classes": source.num_classes,
    }
    key = f"{task.member.folder}/{task.spec}.json"
    store.put(key, (json.dumps(record, indent=1) + "\n").encode())
