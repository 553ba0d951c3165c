"""Shards to batches: what a rank trains on, update by update, decoded in loader processes.

Letters: b samples of a micro-batch, S side of the crop in pixels.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainer.config import AugmentConfig, DataConfig, InputConfig
from trainer.data import augment, order
from trainer.data.cache import DamagedSample, Fetched, Reader
from trainer.data.decode import GREY, DamagedImage, decode
from trainer.data.shards import Dataset as Shards

logger = logging.getLogger(__name__)

Made = TypeVar("Made")
"""What loader processes make of an item of a plan."""


@dataclass(frozen=True)
class Step:
    """What one update takes: positions start <= p < stop of an epoch's order."""

    epoch: int
    start: int
    stop: int
    ids: tuple[int, ...]
    """This rank's samples."""
    num_micros: int
    """Forward passes, the same on every rank, or the collectives would not meet."""
    turns: tuple[int, ...] = ()
    """How often each of them has occurred before in the epoch; empty: none has."""


@dataclass(frozen=True)
class Part:
    """One forward pass of a step: which samples, in which epoch's view."""

    step: Step
    ids: tuple[int, ...]
    turns: tuple[int, ...] = ()
    """As the step's."""


@dataclass(frozen=True)
class Batch:
    """One decoded part. A sample of weight 0 (padding, damaged) adds nothing to loss or gradient.

    pixels: (b, 3, S, S) uint8; labels: (b,) int64; weights: (b,) float32.
    """

    part: Part
    pixels: Tensor
    labels: Tensor
    weights: Tensor
    damaged: tuple[str, ...] = ()
    """What could not be read, named; each stands as grey pixels of weight 0."""
    fetched: Fetched = field(default_factory=Fetched)
    """What its loader process has had from the node's cache since its batch before."""
    clean: Tensor | None = None
    """(b, 3, S, S) uint8: the centre views of the same pictures, where they were asked for."""

    @property
    def ids(self) -> Tensor:
        """(b,) int64 rows of the dataset's index; -1 for padding."""
        return torch.tensor(self.part.ids or (-1,))

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, which the device copies from without waiting."""
        return Batch(
            self.part,
            self.pixels.pin_memory(),
            self.labels.pin_memory(),
            self.weights.pin_memory(),
            self.damaged,
            self.fetched,
            None if self.clean is None else self.clean.pin_memory(),
        )


class View(Protocol):
    """What of a picture becomes the network's input."""

    def side_px(self, part: Part) -> int:
        """Side of the views of a part's pictures."""

    def __call__(self, image: Tensor, part: Part, row: int) -> Tensor:
        """(3, H, W) uint8, the picture of this row of the part, to (3, S, S) uint8, S its side."""


class Decoded(Dataset[Batch]):
    """Parts to batches. Loader processes get a pickled copy: addresses, no arrays, no clients."""

    told = Fetched()
    """What batches have told of so far."""

    def __init__(
        self,
        shards: Shards,
        data: DataConfig,
        view: View,
        cache_dir: Path,
        clean: View | None = None,
    ) -> None:
        self.shards, self.data, self.view, self.clean = shards, data, view, clean
        self.cache_dir = cache_dir
        self.opened: tuple[Reader, NDArray[Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": None, "told": Fetched()}

    def __getitem__(self, part: Part) -> Batch:
        if self.opened is None:
            reader = Reader(self.shards, self.cache_dir, self.data.cache_bytes)
            self.opened = (reader, self.shards.index())
        reader, index = self.opened
        count = max(1, len(part.ids))
        side = self.view.side_px(part)
        pixels = torch.full((count, 3, side, side), GREY, dtype=torch.uint8)
        clean = torch.full_like(pixels, GREY) if self.clean is not None else None
        labels, weights = torch.zeros(count, dtype=torch.int64), torch.zeros(count)
        damaged = []
        for row, sample in enumerate(part.ids):
            labels[row] = int(index[sample]["label"])
            try:
                picture = decode(reader.read(sample))
                pixels[row] = self.view(picture, part, row)
                if clean is not None and self.clean is not None:
                    clean[row] = self.clean(picture, part, row)
            except (DamagedImage, DamagedSample) as error:
                damaged.append(f"sample {sample}: {error}")
                continue
            weights[row] = 1.0
        told, self.told = self.told, reader.fetched()
        return Batch(part, pixels, labels, weights, tuple(damaged), self.told - told, clean)


@dataclass(frozen=True)
class TrainingView:
    """The random view of (seed, epoch, id), and of how often that has occurred before."""

    config: InputConfig
    more: AugmentConfig
    seed: int

    def side_px(self, part: Part) -> int:
        return augment.side_px(self.config, part.step.epoch)

    def __call__(self, image: Tensor, part: Part, row: int) -> Tensor:
        return augment.training_view(
            image,
            self.config,
            self.more,
            seed=self.seed,
            epoch=part.step.epoch,
            sample=part.ids[row],
            turn=part.turns[row] if part.turns else 0,
        )


@dataclass(frozen=True)
class CentreView:
    """The fixed view of evaluation, or beside a training view, of that one's size."""

    config: InputConfig
    beside: bool = False

    def side_px(self, part: Part) -> int:
        return augment.side_px(self.config, part.step.epoch) if self.beside else self.config.size_px

    def __call__(self, image: Tensor, part: Part, row: int) -> Tensor:
        return augment.evaluation_view(image, self.config, self.side_px(part))


class Plan(Sampler[Part]):
    """The parts of all steps that are left, over the epochs, for one rank."""

    def __init__(
        self,
        build: Callable[[int], order.Order],
        *,
        seen: int,
        stop: int,
        num_samples: int,
        global_batch: int,
        micro_batch: int,
        rank: int,
        world: int,
    ) -> None:
        self.build = build
        self.seen, self.stop, self.num_samples = seen, stop, num_samples
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[Part]:
        for step in self.steps():
            for micro in range(step.num_micros):
                mine = slice(micro * self.micro_batch, (micro + 1) * self.micro_batch)
                yield Part(step, step.ids[mine], step.turns[mine])

    def steps(self) -> Iterator[Step]:
        """The steps in their order; the next epoch's order is made beside the current epoch."""
        epoch, position = divmod(self.seen, self.num_samples)
        with ThreadPoolExecutor(1, "order") as pool:
            coming: Future[order.Order] = pool.submit(self.build, epoch)
            while epoch * self.num_samples < self.stop:
                built = coming.result()
                end = min(self.num_samples, self.stop - epoch * self.num_samples)
                if (epoch + 1) * self.num_samples < self.stop:
                    coming = pool.submit(self.build, epoch + 1)
                for start, stop in order.steps(position, end, self.global_batch):
                    yield self.step(built, epoch, start, stop)
                epoch, position = epoch + 1, 0

    def step(self, built: order.Order, epoch: int, start: int, stop: int) -> Step:
        """One step with its number of forward passes, from what every rank can compute."""
        largest = max(order.local_sizes(start, stop, built.lanes, self.world))
        ids = built.local(start, stop, self.rank, self.world)
        turns = built.local_turns(start, stop, self.rank, self.world)
        micros = max(1, -(-largest // self.micro_batch))
        return Step(epoch, start, stop, tuple(ids.tolist()), micros, tuple(turns.tolist()))


class EvaluationPlan(Sampler[Part]):
    """A rank's share of so many samples from the id `first`, each on exactly one rank."""

    def __init__(self, num_samples: int, batch: int, rank: int, world: int, first: int = 0) -> None:
        self.num_samples, self.batch, self.rank, self.world = num_samples, batch, rank, world
        self.first = first

    def __iter__(self) -> Iterator[Part]:
        mine = tuple(range(self.first + self.rank, self.first + self.num_samples, self.world))
        step = Step(0, 0, self.num_samples, mine, -(-len(mine) // self.batch))
        for first in range(0, len(mine), self.batch):
            yield Part(step, mine[first : first + self.batch])


def batches(
    decoded: Decoded,
    plan: Sampler[Part],
    data: DataConfig,
    *,
    pin: bool,
    weights: NDArray[np.float32] | None = None,
) -> Iterator[Batch]:
    """Decoded batches in the plan's order.

    weights: loss weight by sample id, kept here so that loader processes need no copy.
    """
    for batch in loaded(decoded, plan, data, pin=pin):
        if weights is not None and batch.part.ids:
            batch.weights.mul_(torch.from_numpy(weights[list(batch.part.ids)]))
        yield batch


def loaded(
    made: Dataset[Made], plan: Sampler[Any], data: DataConfig, *, pin: bool
) -> Iterator[Made]:
    """What is made of each of the plan's items, in its order, by loader processes if there are any.

    Loader processes start by forkserver: an S3 client inherited over fork shares its socket with
    the parent and mixes up their bytes. SIGTERM is blocked in them, since torchrun sends it to the
    whole process group and the rank still needs its batches to end the update.
    """
    options: dict[str, Any] = {}
    if data.loader_processes:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        options = {"multiprocessing_context": context, "prefetch_factor": data.prefetch}
    loader = DataLoader(
        made,
        batch_size=None,
        sampler=plan,
        num_workers=data.loader_processes,
        pin_memory=pin,
        **options,
    )
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        iterator = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    yield from iterator


def evaluation_batches(
    dataset: Shards,
    data: DataConfig,
    input: InputConfig,
    batch: int,
    cache_dir: Path,
    *,
    rank: int,
    world: int,
    pin: bool,
    ids: slice | None = None,
) -> Iterator[Batch]:
    """The centre views of a range of samples, each on one of `world` ranks; these are `rank`'s.

    ids: None: the whole dataset.
    """
    decoded = Decoded(dataset, data, CentreView(input), cache_dir)
    first, stop = (0, dataset.num_samples) if ids is None else (ids.start, ids.stop)
    plan = EvaluationPlan(stop - first, batch, rank, world, first)
    return batches(decoded, plan, data, pin=pin)


def steps_of(source: Iterator[Batch]) -> Iterator[tuple[Step, Iterator[Batch]]]:
    """Each step with its batches; they must be taken before the next step is."""
    for first in source:
        yield first.part.step, _step_batches(first, source)


def _step_batches(first: Batch, source: Iterator[Batch]) -> Iterator[Batch]:
    yield first
    for _ in range(first.part.step.num_micros - 1):
        yield next(source)
