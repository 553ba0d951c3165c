"""Another run as a source: its configuration, its network, the averaged weights it has kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from trainer.checkpoint import (
    CheckpointError,
    CorruptCheckpoint,
    Manifest,
    Which,
    ranked,
    read_state,
)
from trainer.config import RUN_KEY, ConfigError, FinetuneConfig, TrainConfig, parse
from trainer.learn import models
from trainer.learn.margins import mean_margins
from trainer.storage import NotFound, StorageError, open_store


@dataclass(frozen=True)
class Source:
    """A checkpoint of another run."""

    address: str
    config: TrainConfig
    manifest: Manifest
    weights: dict[str, Tensor]
    """The averaged parameters and buffers by the network's names, on the CPU."""
    margins: Tensor | None
    """(N,) mean margin of each training sample, where the run has recorded it."""

    @property
    def num_classes(self) -> int:
        return int(self.manifest.facts["num_classes"])

    def network(self) -> nn.Module:
        """The run's network with these weights."""
        network = models.build(self.config.model, self.num_classes)
        network.load_state_dict(self.weights)
        return network


def open_run(address: str, which: Which = "best", key: str = "") -> Source:
    """Reads a run's configuration and its best or newest checkpoint that is whole.

    key: takes the checkpoint of this manifest and no other. Raises ConfigError naming the address
    where there is no run, CheckpointError where it has kept nothing, StorageError where the store
    fails.
    """
    store = open_store(address)
    try:
        text = store.get(RUN_KEY).decode()
    except NotFound as error:
        raise ConfigError(
            f"{address} holds no run (no {RUN_KEY}); give the checkpoint.address of one"
        ) from error
    # A fine-tuning's run says more than a training's; of the latter, that more stays empty.
    config = parse(FinetuneConfig, text, source=f"{address}/{RUN_KEY}", complete=False)
    problems: list[Exception] = []
    for manifest in ranked(store, which):
        if key and manifest.key != key:
            continue
        try:
            state = read_state(store, manifest)
        except (CorruptCheckpoint, StorageError) as error:
            problems.append(error)
            continue
        return source_of(address, config, manifest, state)
    if not problems:
        raise CheckpointError(f"{address} no longer has the checkpoint {key}")
    raise problems[0]


def open_named(key: str, address: str, which: Which = "best") -> Source:
    """The run that a key of the configuration names. Raises ConfigError, StorageError."""
    try:
        return open_run(address, which)
    except CheckpointError as error:
        raise ConfigError(f"{key}: {error}") from error


def source_of(
    address: str, config: TrainConfig, manifest: Manifest, state: Mapping[str, Tensor]
) -> Source:
    """A checkpoint whose state was read, as a source."""
    weights = {
        name.removeprefix("ema."): value.clone()  # or all of the state would live as long
        for name, value in state.items()
        if name.startswith("ema.")
    }
    margins = None
    if config.log.margins:
        margins = mean_margins(state["margins.total"], state["margins.count"])
    return Source(address, config, manifest, weights, margins)
