"""The cells of an experiment: a method, a seed and a stage, each a run in a folder of its own.

A folder is named after what makes the run what it is: changed, it is another folder, and the old
one is neither used nor removed. Methods whose first stages are the same share their runs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tools.experiments.dataset import Data
from tools.experiments.spec import (
    ENTRIES,
    Experiment,
    Method,
    SpecError,
    Tree,
    filled,
    merged,
)
from trainer.config import ConfigError, FinetuneConfig, TextfilterConfig, TrainConfig, parse

CONFIGS: dict[str, type[object]] = {
    "train": TrainConfig,
    "finetune": FinetuneConfig,
    "textfilter": TextfilterConfig,
}
"""What each entry is told."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    title: str
    module: str
    folder: Path
    run_file: str
    """The text of it."""

    @property
    def run_path(self) -> Path:
        return self.folder / "run.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def run(self) -> Path:
        """The trainer's own folder: checkpoints and metrics, or what a text filtering wrote."""
        return self.folder / "run"

    @property
    def is_filter(self) -> bool:
        """Whether it trains nothing."""
        return self.module == ENTRIES["textfilter"]


@dataclass(frozen=True)
class Chain:
    """The runs of one method with one seed, each going on from the one before."""

    method: str
    seed: int
    config: str
    """Of seed and trees, the same on every machine."""
    data: str
    cells: tuple[Cell, ...]

    @property
    def title(self) -> str:
        return f"{self.method}, seed {self.seed}"


def check(experiment: Experiment) -> None:
    """Reads each stage's run as its entry will. Raises SpecError, one line."""
    nowhere = Data("file:///train", "file:///val", "", "")
    for method in experiment.methods:
        chain = chain_of(experiment, method, experiment.seeds[0], nowhere, Path("/"))
        for number, (stage, cell) in enumerate(zip(method.stages, chain.cells, strict=True), 1):
            where = f"method {method.name}" + (f", stage {number}," if number > 1 else "")
            try:
                parse(CONFIGS[stage.entry], cell.run_file, source=f"{where} in {experiment.source}")
            except ConfigError as error:
                raise SpecError(str(error)) from error


def chain_of(experiment: Experiment, method: Method, seed: int, data: Data, state: Path) -> Chain:
    """The runs of a method with a seed."""
    import yaml

    cells: list[Cell] = []
    before: list[object] = [seed]
    for number, stage in enumerate(method.stages, 1):
        before.append([stage.entry, stage.tree])
        place = sha256([data.packs, *before])[:10]
        folder = state / "cells" / f"{seed}-{number}-{place}"
        previous = cells[-1].run.as_uri() if cells else ""
        own = (
            _filters_own(data, folder) if stage.entry == "textfilter" else _own(data, folder, seed)
        )
        name = f"{experiment.name}-{seed}-{number}-{place}"
        tree = {"name": name, **merged(filled(stage.tree, previous), own)}
        title = f"{method.name}, seed {seed}"
        title += f", stage {number}" if len(method.stages) > 1 else ""
        text = yaml.safe_dump(tree, sort_keys=False)
        cells.append(Cell(title, ENTRIES[stage.entry], folder, text))
    return Chain(method.name, seed, config_of(method, seed), data.sha256, tuple(cells))


def config_of(method: Method, seed: int) -> str:
    """Names all that a method's runs with a seed are told, apart from where things are."""
    return sha256([seed, *([stage.entry, stage.tree] for stage in method.stages)])[:16]


def _filters_own(data: Data, folder: Path) -> Tree:
    return {"data": data.train, "output": (folder / "run").as_uri()}


def _own(data: Data, folder: Path, seed: int) -> Tree:
    return {
        "seed": seed,
        "data": {"train": data.train, "val": data.val},
        "checkpoint": {"address": (folder / "run").as_uri()},
        "log": {"metrics_port": 0},
        "world": {"threads": 1},
    }


def sha256(content: object) -> str:
    """Of the content's JSON, the order of keys aside."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
