"""Accuracy of a run's averaged weights at one or several input sizes.

    python -m trainer.evaluate RUN --sizes 224,288,320          one process

RUN is a run's checkpoint.address. The result is one JSON document on stdout;
`launcher evaluate` draws it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trainer.config import ConfigError, WorldConfig
from trainer.data import stream
from trainer.data.cache import cache_folder
from trainer.data.shards import Dataset, open_dataset
from trainer.entry import log_to_stderr, one_line_errors
from trainer.learn import fastest, pooling
from trainer.learn.evaluation import measure
from trainer.learn.placement import placed
from trainer.runs import Source, open_run
from trainer.world import World, join


def evaluate(source: Source, dataset: Dataset, sizes: Sequence[int], batch: int) -> dict[str, Any]:
    """The document: the run, the data, and a result for each size. Raises ConfigError."""
    if dataset.num_classes > source.num_classes:
        raise ConfigError(
            f"{dataset.address} has {dataset.num_classes} classes, but the run {source.address} has"
            f" {source.num_classes}; give data of the run's classes"
        )
    world = join(WorldConfig())
    network = source.network()
    powers = list(pooling.powers(network).values())
    results = [evaluate_at(source, network, world, dataset, size, batch) for size in sizes]
    return {
        "schemaVersion": 1,
        "run": source.address,
        "model": source.config.model.name,
        "update": source.manifest.update,
        "trained_at_px": source.config.input.size_px,
        "data": dataset.address,
        "p": float(powers[0].detach().mean()) if powers else None,
        "results": results,
    }


def evaluate_at(
    source: Source, network: nn.Module, world: World, dataset: Dataset, size_px: int, batch: int
) -> dict[str, Any]:
    """The result of the run's network at one input size; the crop's share of a picture stays."""
    view = dataclasses.replace(source.config.input, size_px=size_px)
    update = dataclasses.replace(source.config.update, micro_batch=batch)
    precision, layout = fastest.choose(network, update, size_px, world.device)
    batches = stream.evaluation_batches(
        dataset,
        source.config.data,
        view,
        batch,
        cache_folder(),
        rank=world.rank,
        world=world.size,
        pin=world.device.type == "cuda",
    )
    began = time.monotonic()
    found = measure(
        placed(network, world.device, layout),
        batches,
        source.num_classes,
        world=world,
        input=view,
        precision=precision,
        layout=layout,
    )
    elapsed_s = round(time.monotonic() - began, 3)
    return {"size_px": size_px, **dataclasses.asdict(found), "elapsed_s": elapsed_s}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.evaluate", description="Accuracy of a run at several input sizes."
    )
    parser.add_argument("run", help="the run's checkpoint.address")
    parser.add_argument("--sizes", default="", help="as 224,288,320; default: the run's own")
    parser.add_argument("--data", default="val", help="val or train of the run, or an address")
    parser.add_argument("--which", choices=["best", "newest"], default="best")
    parser.add_argument("--batch", type=int, default=64, help="samples of a forward pass")
    given = parser.parse_args(arguments)
    words = [word.strip() for word in given.sizes.split(",") if word.strip()]
    if not all(word.isdecimal() and 16 <= int(word) <= 2048 for word in words):
        parser.error(f"--sizes is {given.sizes!r}; give numbers from 16 to 2048 as 224,288,320")
    given.sizes = [int(word) for word in words]
    return given


def main() -> None:
    """Evaluates and tells; exit status 2 is for what starting again cannot cure."""
    log_to_stderr()
    given = parse(sys.argv[1:])
    with one_line_errors():
        source = open_run(given.run, given.which)
        named = {"val": source.config.data.val, "train": source.config.data.train}
        address = named.get(given.data, given.data)
        if not address:
            raise ConfigError(f"the run {given.run} has no data.val; name the data: --data ADDRESS")
        dataset = open_dataset(address, cache_folder())
        sizes = given.sizes or [source.config.input.size_px]
        print(json.dumps(evaluate(source, dataset, sizes, given.batch)), flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
