"""Which training labels are probably wrong: a report, and weights by id for data.weights.

    python -m trainer.noise RUN --out report.html
    python -m trainer.noise FOLD0 FOLD1 FOLD2 --out report.html         out of fold
    python -m trainer.noise --folds 3 --of DATA --out FOLDER            selections for such runs

RUN is a run's checkpoint.address. A sample is judged by the runs that did not train on it
(data.selection), by all where each did. Where a run has recorded margins (log.margins), the worst
pictures are those of the lowest mean margin.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.config import ConfigError, WorldConfig
from trainer.data import stream
from trainer.data.cache import cache_folder
from trainer.data.order import permutation
from trainer.data.selection import load_selection
from trainer.data.shards import Dataset, open_dataset
from trainer.entry import log_to_stderr, one_line_errors
from trainer.learn.confident import Opinions, judge, worst
from trainer.learn.engine import autocast, normalise
from trainer.noise_page import Page, write_page
from trainer.runs import Source, open_run
from trainer.storage import open_store
from trainer.world import World, join

KEPT_CLASSES = 8
"""Likeliest classes kept of a sample: of 16 M samples they take 0.8 GB."""


@torch.no_grad()
def opinions_of(sources: Sequence[Source], dataset: Dataset, world: World, batch: int) -> Opinions:
    """What the runs say of the centre view of each training picture, averaged over runs."""
    trained = np.stack([_trained(source, dataset) for source in sources])
    everyone = trained.all(0)
    voters = torch.from_numpy(np.where(everyone, True, ~trained)).float()  # (runs, N)
    networks = [source.network().to(world.device).eval() for source in sources]
    num_classes = sources[0].num_classes
    kept = min(KEPT_CLASSES, num_classes)
    labels = dataset.index()["label"].astype(np.int64)
    own = np.zeros(len(labels), np.float32)
    classes = np.zeros((len(labels), kept), np.int64)
    likely = np.zeros((len(labels), kept), np.float32)
    seen = np.zeros(len(labels), np.bool_)
    first = sources[0].config
    views = stream.evaluation_batches(
        dataset, first.data, first.input, batch, cache_folder(), rank=0, world=1, pin=False
    )
    for part in views:
        ids = part.ids
        total = torch.zeros(len(ids), num_classes)
        for source, network, votes in zip(sources, networks, voters, strict=True):
            pixels = normalise(part.pixels, source.config.input, world.device, "nchw")
            with autocast(_precision(source, world), world.device):
                scores = network(pixels).float().softmax(1).cpu()
            total += votes[ids][:, None] * scores
        mean = total / voters[:, ids].sum(0)[:, None]
        top = mean.topk(kept, 1)
        rows = ids.numpy()
        own[rows] = mean.gather(1, part.labels[:, None])[:, 0].numpy()
        classes[rows], likely[rows] = top.indices.numpy(), top.values.numpy()
        seen[rows] = (part.weights > 0).numpy()
    return Opinions(labels, own, classes, likely, seen)


def _precision(source: Source, world: World) -> str:
    """The run's own on a GPU; on a CPU, which may be another than the run's, the safe one."""
    return str(source.manifest.facts["precision"]) if world.device.type == "cuda" else "fp32"


def _trained(source: Source, dataset: Dataset) -> NDArray[np.bool_]:
    """(N,) whether the run trained on the sample."""
    ids, _ = load_selection(source.config.data.selection, dataset.num_samples)
    trained = np.ones(dataset.num_samples, np.bool_)
    if ids is not None:
        trained[:] = False
        trained[ids] = True
    return trained


def margins_of(sources: Sequence[Source]) -> NDArray[np.float32] | None:
    """(N,) mean margins over the runs that recorded them; None where none did."""
    found = [source.margins.numpy() for source in sources if source.margins is not None]
    if not found:
        return None
    kept = np.ma.masked_invalid(np.stack(found))
    mean = np.ma.mean(kept, axis=0).filled(np.nan)
    return np.asarray(mean, np.float32)


def report(sources: Sequence[Source], out: Path, batch: int, num_pictures: int) -> dict[str, Any]:
    """Writes the page and, beside it, weights and scores; gives the summary.

    Raises ConfigError where the runs do not belong together.
    """
    first = sources[0]
    for other in sources[1:]:
        if other.config.data.train != first.config.data.train:
            raise ConfigError(
                f"{other.address} trained on {other.config.data.train}, but {first.address} on"
                f" {first.config.data.train}; give runs of one dataset"
            )
    cache = cache_folder()
    dataset = open_dataset(first.config.data.train, cache)
    opinions = opinions_of(sources, dataset, join(WorldConfig()), batch)
    noise = judge(opinions, first.num_classes)
    margins = margins_of(sources)
    ids = worst(opinions, noise, num_pictures, margins)
    page = Page([source.address for source in sources], dataset, opinions, noise, margins, ids)
    write_page(page, out, cache)
    weights = out.with_suffix(".weights.npy")
    np.save(weights, noise.weights, allow_pickle=False)
    probabilities = out.with_suffix(".probabilities.npy")
    known = np.where(opinions.seen, opinions.own, np.float32(np.nan)).astype(np.float32)
    np.save(probabilities, known, allow_pickle=False)
    summary = {
        "schemaVersion": 1,
        "runs": page.runs,
        "data": dataset.address,
        "num_samples": dataset.num_samples,
        "noise_rate": noise.rate(),
        "num_suspects": int((noise.weights < 1).sum()),
        "class_noise_rates": noise.rates().round(4).tolist(),
        "report": str(out),
        "weights": str(weights),
        "probabilities": str(probabilities),
    }
    out.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def write_folds(data: str, count: int, out: str, seed: int) -> list[str]:
    """Selections of all but one of `count` parts each, as fold-NUMBER.npy; their addresses."""
    dataset = open_dataset(data, cache_folder())
    if not 2 <= count <= dataset.num_samples:
        raise ConfigError(
            f"--folds is {count}, but 2 to {dataset.num_samples} parts can be made of"
            f" {dataset.num_samples} samples"
        )
    shuffled = permutation(dataset.num_samples, "folds", seed)
    store = open_store(out)
    names = []
    for number in range(count):
        held = set(shuffled[number::count].tolist())
        ids = np.array([i for i in range(dataset.num_samples) if i not in held], np.int64)
        content = io.BytesIO()
        np.save(content, ids, allow_pickle=False)
        names.append(f"fold-{number}.npy")
        store.put(names[-1], content.getvalue())
    return [f"{store.address}/{name}" for name in names]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.noise", description="Tells which training labels are wrong."
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run's checkpoint.address")
    parser.add_argument("--out", required=True, help="page to write, or folder for --folds")
    parser.add_argument("--which", choices=["best", "newest"], default="newest")
    parser.add_argument("--batch", type=int, default=64, help="samples of a forward pass")
    parser.add_argument("--pictures", type=int, default=60, help="worst pictures to show")
    parser.add_argument("--folds", type=int, default=0, help="write selections for so many runs")
    parser.add_argument("--of", default="", metavar="DATA", help="with --folds: the dataset")
    parser.add_argument("--seed", type=int, default=0, help="with --folds: of the parts")
    given = parser.parse_args(arguments)
    if bool(given.folds) == bool(given.runs):
        parser.error("give runs to judge by, or --folds to make selections for such runs")
    if given.folds and not given.of:
        parser.error("--folds needs --of DATA, the dataset to part")
    if given.runs and Path(given.out).suffix != ".html":
        parser.error(f"--out is {given.out!r}, but a page must end in .html")
    return given


def main() -> None:
    """Judges and tells; exit status 2 is for what starting again cannot cure."""
    log_to_stderr()
    given = parse(sys.argv[1:])
    with one_line_errors():
        if given.folds:
            folds = write_folds(given.of, given.folds, given.out, given.seed)
            print(json.dumps({"schemaVersion": 1, "selections": folds}), flush=True)
            return
        sources = [open_run(address, given.which) for address in given.runs]
        summary = report(sources, Path(given.out), given.batch, given.pictures)
        print(json.dumps(summary), flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
