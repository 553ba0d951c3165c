"""Fine-tuning: a training run that begins from another run's checkpoint, at a larger input for one.

    python -m trainer.finetune run.yaml start.address=RUN input.size_px=320

Everything after the beginning is training as trainer.train does it: elastic, resumable, counted.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
from collections.abc import Iterator

import torch
from torch import nn

from trainer import train
from trainer.config import ConfigError, FinetuneConfig, StartConfig, TrainConfig
from trainer.data.stream import Batch
from trainer.entry import run_entry
from trainer.learn import engine, models, pooling, statistics
from trainer.learn.pooling import GeM
from trainer.runs import Source, open_named
from trainer.storage import open_store

logger = logging.getLogger(__name__)


def finetune(cfg: FinetuneConfig) -> None:
    """Trains from the checkpoint that cfg.start names, or on from this run's own newest one."""
    cfg = settled(cfg)
    train.train(cfg, FromRun(cfg))


def settled(cfg: FinetuneConfig) -> FinetuneConfig:
    """The run with its start as the teacher where it wants one and names none, as in SCC.

    Raises ConfigError where it would take the folder that it begins from for its own.
    """
    if open_store(cfg.start.address).address == open_store(cfg.checkpoint.address).address:
        raise ConfigError(
            f"start.address and checkpoint.address are both {cfg.start.address}; give the new run"
            " a folder of its own"
        )
    told = cfg.loss.self_label
    if cfg.loss.name != "self_label" or told.teacher_from:
        return cfg
    taught = dataclasses.replace(told, teacher_from=cfg.start.address)
    return dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, self_label=taught))


class FromRun(train.Begin):
    """Begins with the averaged weights of a run, which is read where they are needed alone.

    So a fine-tuning that has kept a checkpoint goes on though its source is gone.
    """

    def __init__(self, cfg: FinetuneConfig) -> None:
        self.start = cfg.start

    def network(self, cfg: TrainConfig, network: nn.Module, fresh: bool) -> tuple[nn.Module, ...]:
        """The run's weights where the run is fresh; says what learns in any case."""
        resting = rest(network, self.start)
        if fresh:
            source = open_named("start.address", self.start.address, self.start.which)
            check_network(cfg, source)
            load_weights(network, source, self.start.head)
            logger.info("begins from update %d of %s", source.manifest.update, source.address)
        return resting

    def state(self, cfg: TrainConfig, state: engine.State, batches: Iterator[Batch]) -> None:
        """Measures the running statistics anew where the configuration wants it."""
        wanted = self.start.statistics_samples
        if not wanted:
            return
        some = itertools.islice(
            batches, max(1, wanted // (state.world.size * cfg.update.micro_batch))
        )
        count = statistics.recalibrate(state.network, (inputs(state, batch) for batch in some))
        for name, value in state.network.named_buffers():
            state.ema[name].copy_(value)
        logger.info("running statistics measured anew over %d batches of each rank", count)


def check_network(cfg: TrainConfig, source: Source) -> None:
    """Raises ConfigError where the run to begin from has trained another network."""
    ours, theirs = cfg.model.network, source.config.model.network
    if ours != theirs:
        raise ConfigError(
            f"start.address {source.address} holds {theirs}, but model is {ours}; give a run of"
            " the same network, or set model.* to its"
        )


def load_weights(network: nn.Module, source: Source, head: str) -> None:
    """Takes the source's averaged weights, but for the classifier where it is to be new.

    Raises ConfigError where the classes differ and the classifier is to be kept, or where a
    tensor does not fit.
    """
    own, classifier = network.state_dict(), f"{models.head_name(network)}."
    left = {name for name in own if name.startswith(classifier)}
    powers = pooling.powers(network).keys()
    given = dict(source.weights)
    for name in powers & given.keys():  # one power for all, or their mean for one
        power = given[name] if own[name].ndim else given[name].mean()
        given[name] = power.expand(own[name].shape)
    theirs = {name for name in given if name.startswith(classifier)}
    if head == "new":
        given = {name: value for name, value in given.items() if name not in theirs}
    elif theirs != left:
        raise ConfigError(
            f"start.address {source.address} has a {source.config.model.head} classifier, and this"
            " run's model.head is another; set start.head to new, or model.head to its"
        )
    elif any(given[name].shape != own[name].shape for name in left & given.keys()):
        raise ConfigError(
            f"start.address {source.address} has {source.num_classes} classes, but this run's data"
            " has another number; set start.head to new"
        )
    missing = own.keys() - given.keys() - powers - (left if head == "new" else set())
    # A run without GeM has no p, and one that is fine-tuned without GeM has no use for p.
    odd = {name for name in given.keys() - own.keys() if not re.search(r"(^|\.)p$", name)}
    bent = {name for name in given.keys() & own.keys() if given[name].shape != own[name].shape}
    if wrong := missing | odd | bent:
        first = ", ".join(sorted(wrong)[:5])
        raise ConfigError(
            f"start.address {source.address} does not fit {len(wrong)} tensors of the network,"
            f" first {first}; give a run of the same model.* and, where they depend on it, of the"
            " same input.size_px"
        )
    network.load_state_dict({k: v for k, v in given.items() if k in own}, strict=False)


def rest(network: nn.Module, start: StartConfig) -> tuple[nn.Module, ...]:
    """Takes the gradients from what is not to learn; returns those parts, to stay in evaluation.

    Raises ConfigError where nothing would be left to learn.
    """
    head = network.get_submodule(models.head_name(network))
    pools = [part for part in network.modules() if isinstance(part, GeM)]
    if start.train == "pool" and not pools:
        raise ConfigError("start.train is pool, but the network has no GeM; set model.pool to gem")
    resting: tuple[nn.Module, ...] = ()
    if start.train != "all":
        network.requires_grad_(False)
        learning = [head] if start.train == "head" else pools
        for part in learning:
            part.requires_grad_(True)
        resting = tuple(beside(network, set(learning)))
    if start.frozen_stages:
        resting = (*resting, *frozen(network, start.frozen_stages))
    return resting


def beside(network: nn.Module, learning: set[nn.Module]) -> Iterator[nn.Module]:
    """The largest parts of the network that hold nothing of what learns."""
    for part in network.children():
        if not learning.intersection(part.modules()):
            yield part
        elif part not in learning:
            yield from beside(part, learning)


def frozen(network: nn.Module, num_stages: int) -> list[nn.Module]:
    """Takes the gradients from the stem and the first stages; returns their layers."""
    stage_of = models.stage_of(network)
    last = max(stage_of.values())
    if num_stages >= last:
        raise ConfigError(
            f"start.frozen_stages is {num_stages}, but the network has {last - 1} stages between"
            " its stem and its classifier"
        )
    layers = []
    for prefix, layer in network.named_modules():
        own = [f"{prefix}.{name}".lstrip(".") for name, _ in layer.named_parameters(recurse=False)]
        if own and all(stage_of[name] <= num_stages for name in own):
            layers.append(layer.requires_grad_(False))
    return layers


def inputs(state: engine.State, batch: Batch) -> torch.Tensor:
    """A batch as the network takes it."""
    return engine.normalise(batch.pixels, state.input, state.world.device, state.layout)


def main() -> None:
    """Reads the run and fine-tunes; the exit status is in docs/cli.md."""
    run_entry(FinetuneConfig, finetune)


if __name__ == "__main__":
    main()
