"""Another run as a source: its configuration, its network, the averaged weights it has kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from trainer.checkpoint import CorruptCheckpoint, Manifest, Which, ranked, read_state
from trainer.config import ConfigError, FinetuneConfig, TrainConfig, parse
from trainer.learn import models
from trainer.storage import NotFound, StorageError, open_store


@dataclass(frozen=True)
class Source:
    """A checkpoint of another run."""

    address: str
    config: TrainConfig
    manifest: Manifest
    weights: dict[str, Tensor]
    """The averaged parameters and buffers by the network's names, on the CPU."""

    @property
    def num_classes(self) -> int:
        return int(self.manifest.facts["num_classes"])

    def network(self) -> nn.Module:
        """The run's network with these weights."""
        network = models.build(self.config.model, self.num_classes)
        network.load_state_dict(self.weights)
        return network


def open_run(address: str, which: Which = "best") -> Source:
    """Reads a run's configuration and its best or newest checkpoint that is whole.

    Raises ConfigError naming the address where there is no run, CheckpointError where it has kept
    nothing, StorageError where the store fails.
    """
    store = open_store(address)
    try:
        text = store.get("run.yaml").decode()
    except NotFound as error:
        raise ConfigError(
            f"{address} holds no run (no run.yaml); give the checkpoint.address of one"
        ) from error
    # A fine-tuning's run says more than a training's; of the latter, that more stays empty.
    config = parse(FinetuneConfig, text, source=f"{address}/run.yaml", complete=False)
    problems = []
    for manifest in ranked(store, which):
        try:
            state = read_state(store, manifest)
        except (CorruptCheckpoint, StorageError) as error:
            problems.append(error)
            continue
        return source_of(address, config, manifest, state)
    raise problems[0]


def source_of(
    address: str, config: TrainConfig, manifest: Manifest, state: Mapping[str, Tensor]
) -> Source:
    """A checkpoint whose state was read, as a source."""
    weights = {
        name.removeprefix("ema."): value.clone()  # or all of the state would live as long
        for name, value in state.items()
        if name.startswith("ema.")
    }
    return Source(address, config, manifest, weights)
