"""Predictions of several runs' networks for all pictures of a dataset, over many crops.

    python -m trainer.ensemble [run.yaml] [key=value ...]     or RUN_CONFIG, as in a pod

Of RUN_INDEXES processes each answers for the parts of its JOB_COMPLETION_INDEX. A picture is
decoded once for all networks. What is there is never computed again: a killed process goes on where
it was, and another network in `runs` is the only one that is asked.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from trainer.config import ConfigError, DataConfig, EnsembleConfig, check_ensemble
from trainer.data.cache import cache_folder
from trainer.data.shards import Dataset, DatasetError, open_dataset
from trainer.entry import run_entry
from trainer.exits import leave_on_sigterm
from trainer.infer import predictions
from trainer.infer.members import Member, manner_key, open_forward, open_members
from trainer.infer.predictions import Asking, Task
from trainer.infer.quantise import PICTURES
from trainer.infer.views import centre_views, group_rows
from trainer.learn.placement import own_device
from trainer.pieces import Span, share, spans_of
from trainer.storage import Store, open_store

logger = logging.getLogger(__name__)


def ensemble(config: EnsembleConfig) -> None:
    """Makes this process's parts; tells of each network's predictions that are complete."""
    leave_on_sigterm()
    check_ensemble(config)
    cache_dir = cache_folder(config.cache_dir)
    dataset = open_dataset(config.data, cache_dir, labelled=False)
    store = open_store(config.output)
    members = open_members(store, config)
    _check_classes(dataset, members)
    every = spans_of(dataset.num_samples, config.part_samples)
    tasks = predictions.tasks_of(config, dataset, members)
    device = own_device()
    _answer(store, config, dataset, tasks, share(every), cache_dir, device)
    done = [task for task in tasks if not task.pieces.missing(every)]
    for task in done:
        manner = manner_key(task.member, config, device)
        predictions.describe(store, task, dataset, manner, config.part_samples)
    others = [task.title for task in tasks if task not in done]
    if others:
        logger.info("parts of others are missing: %s", ", ".join(others))
    told = {"schemaVersion": 1, "complete": [task.title for task in done], "out": store.address}
    print(json.dumps(told), flush=True)


def _check_classes(dataset: Dataset, members: list[Member]) -> None:
    classes = members[0].source.num_classes
    if dataset.num_classes > classes:
        raise ConfigError(
            f"{dataset.address} has {dataset.num_classes} classes, but the runs have {classes};"
            " give data of the runs' classes"
        )


def _answer(
    store: Store,
    config: EnsembleConfig,
    dataset: Dataset,
    tasks: list[Task],
    mine: Sequence[Span],
    cache_dir: Path,
    device: torch.device,
) -> None:
    """Makes what is missing of these parts."""
    missing = {task.title: {span.number for span in task.pieces.missing(mine)} for task in tasks}
    askings: list[Asking] = []
    for _, group in itertools.groupby(tasks, lambda task: task.member.name):
        wanted = [task for task in group if missing[task.title]]
        if not wanted:
            continue
        side = wanted[0].crops.views[0].side_px
        views = sum(len(missing[t.title]) * config.part_samples * t.crops.number for t in wanted)
        ratio = wanted[0].member.source.config.input.crop_ratio
        sample = partial(_sample, dataset, ratio, cache_dir)
        network = open_forward(store, wanted[0].member, config, side, views, device, sample)
        askings += [Asking(task, network) for task in wanted]
    logger.info("%d parts are missing here", sum(map(len, missing.values())))
    lacking = {
        span.number: [each for each in askings if span.number in missing[each.task.title]]
        for span in mine
    }
    rows = group_rows(max(kind.number for task in tasks for kind in task.crops.views), device)
    predictions.fill(lacking, mine, dataset, rows, config, cache_dir)


def _sample(dataset: Dataset, crop_ratio: float, cache_dir: Path, side_px: int) -> Tensor:
    """What int8 is calibrated on: the same pictures in every process."""
    data = DataConfig(loader_processes=0)
    found = centre_views(dataset, data, side_px, crop_ratio, PICTURES, cache_dir)
    if not len(found):
        raise DatasetError(
            f"none of the first {PICTURES} pictures of {dataset.address} can be read"
        )
    return found


if __name__ == "__main__":
    run_entry(EnsembleConfig, ensemble)
