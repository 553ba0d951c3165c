"""A soup: the average of several checkpoints' weights, as a run of its own.

    python -m trainer.soup RUN [RUN ...] --out ADDRESS            the best checkpoint of each run
    python -m trainer.soup RUN --last 5 --out ADDRESS             the last ones of one run
    python -m trainer.soup RUN RUN RUN --greedy --out ADDRESS     those that help on validation

ADDRESS is then a run's folder with one checkpoint: evaluate it, fine-tune it, ensemble it.
Sources: Izmailov et al., arXiv:1803.05407; greedy: Wortsman et al., arXiv:2203.05482.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint import Keeper, ranked, read_state
from trainer.config import RUN_KEY, ConfigError, WorldConfig, dump
from trainer.data.cache import cache_folder
from trainer.data.shards import open_dataset
from trainer.entry import log_to_stderr, one_line_errors
from trainer.evaluate import evaluate_at
from trainer.runs import Source, open_run, source_of
from trainer.storage import open_store
from trainer.world import join

DEADLINE_S = 600.0

Weights = Mapping[str, Tensor]


def average(ingredients: Sequence[Weights]) -> dict[str, Tensor]:
    """The mean of each tensor, computed in float64; counters are the first's."""

    def mean(name: str, like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return like
        total = sum(each[name].double() for each in ingredients)
        assert isinstance(total, Tensor)
        return (total / len(ingredients)).to(like.dtype)

    return {name: mean(name, like) for name, like in ingredients[0].items()}


def greedy(
    ingredients: Sequence[Weights], scores: Sequence[float], score: Callable[[Weights], float]
) -> list[int]:
    """Which ingredients to take: from the best on, each that does not make the soup worse.

    scores: of each alone, by the same measure as `score`, higher is better.
    """
    order = sorted(range(len(ingredients)), key=lambda number: -scores[number])
    taken, best = order[:1], scores[order[0]]
    for number in order[1:]:
        found = score(average([ingredients[each] for each in [*taken, number]]))
        if found >= best:
            taken, best = [*taken, number], found
    return taken


def ingredients_of(addresses: Sequence[str], last: int) -> list[Source]:
    """Each run's best checkpoint, or the `last` newest of each. Raises ConfigError."""
    sources = []
    for address in addresses:
        first = open_run(address, "newest" if last else "best")
        sources.append(first)
        for manifest in ranked(open_store(address), "newest")[1:last]:
            state = read_state(open_store(address), manifest)
            sources.append(source_of(address, first.config, manifest, state))
    for other in sources[1:]:
        if other.config.model != sources[0].config.model:
            raise ConfigError(
                f"{other.address} trained {other.config.model}, but {sources[0].address}"
                f" {sources[0].config.model}; a soup needs runs of one network"
            )
    if len(sources) < 2:
        raise ConfigError(
            f"{addresses[0]} has kept one checkpoint alone; give several runs, or --last with a run"
            " whose checkpoint.keep_last is above 1"
        )
    return sources


def choose(sources: Sequence[Source]) -> list[Source]:
    """Those that greedy takes by top-1 on the first run's validation set. Raises ConfigError."""
    config = sources[0].config
    if not config.data.val:
        raise ConfigError(f"{sources[0].address} has no data.val, which --greedy judges by")
    world = join(WorldConfig())
    dataset = open_dataset(config.data.val, cache_folder())

    network = sources[0].network()

    def score(weights: Weights) -> float:
        network.load_state_dict(weights)
        size, batch = config.input.size_px, config.evaluate.batch
        found = evaluate_at(sources[0], network, world, dataset, size, batch)
        return float(found["top1"])

    alone = [score(source.weights) for source in sources]
    taken = greedy([source.weights for source in sources], alone, score)
    torch.distributed.destroy_process_group()
    return [sources[number] for number in taken]


def keep(sources: Sequence[Source], address: str) -> None:
    """Writes the soup as a run. Raises ConfigError where the address holds one already."""
    store = open_store(address)
    if any(True for _ in store.list("")):
        raise ConfigError(f"--out {address} is not empty; give another address")
    first = sources[0]
    place = dataclasses.replace(first.config.checkpoint, address=store.address)
    text = dump(dataclasses.replace(first.config, checkpoint=place))
    weights = average([source.weights for source in sources])
    flat = {f"{kind}.{name}": value for kind in ("model", "ema") for name, value in weights.items()}
    keeper = Keeper(
        store,
        first.config.name,
        first.manifest.identity,
        hashlib.sha256(text.encode()).hexdigest(),
        keep_last=1,
        keep_best=1,
        deadline_s=DEADLINE_S,
    )
    keeper.claim()
    keeper.fence(None)
    store.put(RUN_KEY, text.encode())
    soup = [f"{source.address}/{source.manifest.key}" for source in sources]
    keeper.save(
        flat,
        update=first.manifest.update,
        seen=first.manifest.seen,
        epoch=first.manifest.epoch,
        facts=first.manifest.facts | {"soup": soup},
    )
    keeper.flush(DEADLINE_S, check=True)
    keeper.close()
    print(json.dumps({"schemaVersion": 1, "run": store.address, "soup": soup}), flush=True)


def parse(arguments: Sequence[str]) -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.soup", description="Averages the weights of checkpoints."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's checkpoint.address")
    parser.add_argument("--out", required=True, help="address of the new run")
    parser.add_argument("--last", type=int, default=0, help="the last checkpoints of each run")
    parser.add_argument("--greedy", action="store_true", help="take only what helps on validation")
    given = parser.parse_args(arguments)
    if given.last < 0:
        parser.error(f"--last is {given.last}, but it must be at least 1")
    return given


def main() -> None:
    """Makes the soup and tells of it; exit status 2 is for what starting again cannot cure."""
    log_to_stderr()
    given = parse(sys.argv[1:])
    with one_line_errors():
        sources = ingredients_of(given.runs, given.last)
        keep(choose(sources) if given.greedy else sources, given.out)


if __name__ == "__main__":
    main()
