"""One training run, elastic and resumable.

    python -m trainer.train run.yaml optim.lr=0.2        one process
    python -m trainer.agent -m trainer.train             in a pod, the run in RUN_CONFIG

The unit of account is samples seen: workers come and go, the global batch stays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainer.checkpoint import CheckpointError, Keeper, Manifest, StateMismatch, read_state
from trainer.config import RUN_KEY, ConfigError, TrainConfig, dump
from trainer.data import order, stream
from trainer.data.cache import cache_folder
from trainer.data.selection import load_sampling, load_selection, load_weights
from trainer.data.shards import Dataset, open_dataset
from trainer.entry import end_process, run_entry
from trainer.exits import TERMINATED, tell_reason
from trainer.learn import engine, evaluation, losses, memory, models, pretrained
from trainer.learn.margins import Margins
from trainer.learn.schedule import learning_rate
from trainer.learn.teachers import Teacher
from trainer.metrics import Lines
from trainer.report import Report
from trainer.runs import open_named
from trainer.storage import open_store
from trainer.world import Watchdog, World, join

logger = logging.getLogger(__name__)


class Begin:
    """How a run begins; this one with random weights, or those of model.pretrained."""

    def network(self, cfg: TrainConfig, network: nn.Module, fresh: bool) -> tuple[nn.Module, ...]:
        """Prepares the network, whose state comes from a checkpoint unless `fresh`.

        Returns the parts that stay as they are.
        """
        if cfg.model.pretrained and fresh:
            pretrained.load(network, cfg.model.pretrained)
        return ()

    def state(self, cfg: TrainConfig, state: engine.State, batches: Iterator[stream.Batch]) -> None:
        """Prepares the state of a fresh run; batches: those that it will train on."""


def train(cfg: TrainConfig, begin: Begin | None = None) -> None:
    """Trains until cfg.epochs are seen, from the newest checkpoint or as `begin` says."""
    begin = begin or Begin()
    world = join(cfg.world)
    watchdog = Watchdog(cfg.world.stall_s)
    data = open_data(cfg)
    start = claim(cfg, world, data)
    cfg, state = restore(cfg, world, data, start, begin)
    if start.parent is None:
        begin.state(cfg, state, training_batches(cfg, world, data, 0))
    report = Report(cfg, world, goal=data.goal, epoch_samples=data.num_samples, lines=start.lines)
    report.start(state, start.generation, start.parent.update if start.parent else 0)
    audit = Audit(cfg.log.audit_dir, start.generation, world.rank)
    saved_at = time.monotonic()

    for step, batches in stream.steps_of(training_batches(cfg, world, data, state.seen)):
        lr = learning_rate(cfg.optim, state.seen, data.goal, data.num_samples)
        state.mover.set_rate(lr)
        before = state.seen
        save_due = time.monotonic() - saved_at >= cfg.checkpoint.every_s
        engine.update(
            cfg.update,
            cfg.optim,
            state,
            step,
            checked(batches, report, watchdog),
            ema_half_life_samples=cfg.update.ema_half_life_epochs * data.num_samples,
            ask=partial(world.ask, report.due(state), save_due),
        )
        world.agree()
        report.updated(state)
        audit.record(step, state)
        done = state.seen >= data.goal
        log_due, save_due = world.due

        if log_due or done:
            report.tell(state, lr, start.keeper)
        top1 = None
        if data.val and (done or crossed(cfg.evaluate.every_epochs, before, state, data)):
            top1 = evaluate(cfg, world, data, state, report, watchdog)
        span = crossed(cfg.checkpoint.every_epochs, before, state, data)
        if save_due or span or top1 is not None or done or world.leaving:
            saved_at = time.monotonic()
            save(start, state, data, top1, wait=done or world.leaving)
        if world.leaving and not done:
            leave(cfg, world, start, state, report)

    finish(cfg, world, start, state, report)


@dataclass(frozen=True)
class Data:
    """What a run trains and is judged on."""

    train: Dataset
    val: Dataset | None
    num_classes: int
    labels: losses.Labels
    ids: NDArray[np.int64] | None
    weights: NDArray[np.float32] | None
    sampling: NDArray[np.float32] | None
    """Of each of the ids."""
    num_samples: int
    """Samples of an epoch."""
    goal: int
    """Samples of the run."""
    identity: dict[str, str | int]
    """What a checkpoint's state belongs to; it fits no other."""
    cache_dir: Path


def open_data(cfg: TrainConfig) -> Data:
    """Opens the datasets. Raises DatasetError or ConfigError naming what does not fit."""
    cache_dir = cache_folder(cfg.data.cache_dir)
    dataset = open_dataset(cfg.data.train, cache_dir)
    val = open_dataset(cfg.data.val, cache_dir) if cfg.data.val else None
    num_classes = cfg.model.num_classes or dataset.num_classes
    for key, other in (("data.train", dataset), ("data.val", val)):
        if other is not None and other.num_classes > num_classes:
            raise ConfigError(
                f"{key} has {other.num_classes} classes, but the network's head has {num_classes};"
                " set model.num_classes to 0 or to the larger number"
            )
    ids, selection = load_selection(cfg.data.selection, dataset.num_samples)
    weights, weights_digest = load_weights(cfg.data.weights, dataset.num_samples)
    sampling, sampling_digest = load_sampling(cfg.data.sampling, dataset.num_samples, ids)
    num_samples = dataset.num_samples if ids is None else len(ids)
    goal = max(1, round(cfg.epochs * num_samples))
    found = dataset.index()["label"] if ids is None else dataset.index()["label"][ids]
    counts = torch.from_numpy(np.bincount(found, minlength=num_classes))
    identity: dict[str, str | int] = {
        "order_version": order.VERSION,
        "dataset": dataset.sha256,
        "selection": selection,
        "weights": weights_digest,
        "seed": cfg.seed,
        "lanes": cfg.data.lanes,
        "window": cfg.data.window,
    }
    if sampling is not None:  # checkpoints of before it was there have no such key
        identity["sampling"] = sampling_digest
    return Data(
        dataset,
        val,
        num_classes,
        losses.Labels(counts, dataset.num_samples, num_samples, goal),
        ids,
        weights,
        sampling,
        num_samples,
        goal,
        identity,
        cache_dir,
    )


@dataclass(frozen=True)
class Start:
    """How this group of ranks begins: its generation and what it goes on from."""

    generation: int
    parent: Manifest | None
    keeper: Keeper | None
    """On rank 0 alone, as the lines."""
    lines: Lines | None


def claim(cfg: TrainConfig, world: World, data: Data) -> Start:
    """Rank 0 claims the next generation and picks the checkpoint; all ranks hear of it."""
    store = open_store(cfg.checkpoint.address)
    keeper, lines, message = None, None, b""
    if world.rank == 0:
        text = dump(cfg)
        keeper = Keeper(
            store,
            cfg.name,
            data.identity,
            hashlib.sha256(text.encode()).hexdigest(),
            keep_last=cfg.checkpoint.keep_last,
            keep_best=cfg.checkpoint.keep_best,
            deadline_s=cfg.checkpoint.deadline_s,
        )
        generation = keeper.claim()
        parent = keeper.choose()
        keeper.fence(parent)
        store.put(RUN_KEY, text.encode())
        lines = Lines(store, generation)
        message = f"{generation}\n".encode() + (parent.dump() if parent else b"")
    number, _, manifest = world.broadcast(message).partition(b"\n")
    return Start(int(number), Manifest.parse(manifest) if manifest else None, keeper, lines)


def restore(
    cfg: TrainConfig, world: World, data: Data, start: Start, begin: Begin
) -> tuple[TrainConfig, engine.State]:
    """The state to go on with: of the chosen checkpoint, or new and the same on every rank.

    With it the run, in which nothing is left to how_to_compute.
    """
    torch.manual_seed(cfg.seed)
    network = models.build(cfg.model, data.num_classes)
    resting = begin.network(cfg, network, start.parent is None)
    cfg = how_to_compute(cfg, world, network, start.parent)
    state = engine.build(
        network,
        world,
        losses.build(cfg.loss, data.labels),
        optim=cfg.optim,
        update=cfg.update,
        input=cfg.input,
        seed=cfg.seed,
        precision=cfg.update.precision,
        layout=cfg.update.layout,
        teacher=frozen_teacher(cfg, world, cfg.update.layout, data.num_classes),
        resting=resting,
        margins=Margins(data.train.num_samples) if cfg.log.margins else None,
    )
    if start.parent is not None:
        if start.keeper is not None:
            flat = start.keeper.take()
        else:
            flat = read_state(open_store(cfg.checkpoint.address), start.parent)
        try:
            state.load(flat, updates=start.parent.update, seen=start.parent.seen)
        except ValueError as error:
            raise StateMismatch(
                f"{error}; keep model.* or use another checkpoint.address"
            ) from error
    return cfg, state


def frozen_teacher(cfg: TrainConfig, world: World, layout: str, num_classes: int) -> Teacher | None:
    """The teacher of a self-label loss that has a run's checkpoint for one; None for all others.

    Raises ConfigError where the run is not named, or has other classes.
    """
    told = cfg.loss.self_label
    if cfg.loss.name != "self_label" or told.teacher != "checkpoint":
        return None
    if not told.teacher_from:
        raise ConfigError(
            "loss.self_label.teacher is checkpoint, but loss.self_label.teacher_from is empty; give"
            " the address of a run that has converged, or another teacher: ema, self"
        )
    source = open_named("loss.self_label.teacher_from", told.teacher_from)
    if source.num_classes != num_classes:
        raise ConfigError(
            f"loss.self_label.teacher_from {told.teacher_from} has {source.num_classes} classes,"
            f" but this run has {num_classes}; give a teacher of the same classes"
        )
    return Teacher.frozen(source.network(), world.device, layout, source.config.input)


def how_to_compute(
    cfg: TrainConfig, world: World, network: nn.Module, parent: Manifest | None
) -> TrainConfig:
    """The run with a micro-batch that fits, and in precision and layout as its checkpoint."""
    kept = None
    if parent is not None:
        kept = str(parent.facts["precision"]), str(parent.facts["layout"])
    update = memory.settle(network, cfg.update, cfg.input.size_px, world, kept)
    return dataclasses.replace(cfg, update=update)


def training_batches(
    cfg: TrainConfig, world: World, data: Data, seen: int
) -> Iterator[stream.Batch]:
    """This rank's batches from `seen` samples to the end of the run."""
    shards = data.train.index()["shard"]

    def build(epoch: int) -> order.Order:
        ids = data.ids
        if data.sampling is not None:
            every = np.arange(data.num_samples) if ids is None else ids
            ids = order.resample(every, data.sampling, seed=cfg.seed, epoch=epoch)
        return order.build(
            shards,
            ids,
            lanes=cfg.data.lanes,
            window=cfg.data.window,
            seed=cfg.seed,
            epoch=epoch,
        )

    plan = stream.Plan(
        build,
        seen=seen,
        stop=data.goal,
        num_samples=data.num_samples,
        global_batch=cfg.update.global_batch,
        micro_batch=cfg.update.micro_batch,
        rank=world.rank,
        world=world.size,
    )
    view = stream.TrainingView(cfg.input, cfg.augment, cfg.seed)
    wants_clean = cfg.loss.name == "self_label" and cfg.loss.self_label.view == "clean"
    clean = stream.CentreView(cfg.input, beside=True) if wants_clean else None
    decoded = stream.Decoded(data.train, cfg.data, view, data.cache_dir, clean)
    pin = world.device.type == "cuda"
    return stream.batches(decoded, plan, cfg.data, pin=pin, weights=data.weights)


def evaluate(
    cfg: TrainConfig,
    world: World,
    data: Data,
    state: engine.State,
    report: Report,
    watchdog: Watchdog,
) -> float:
    """Validates the averaged weights, tells the result and returns its top-1 accuracy."""
    assert data.val is not None
    began = time.monotonic()
    batches = stream.evaluation_batches(
        data.val,
        cfg.data,
        cfg.input,
        cfg.evaluate.batch,
        data.cache_dir,
        rank=world.rank,
        world=world.size,
        pin=world.device.type == "cuda",
    )
    batches = checked(batches, report, watchdog)
    result = evaluation.evaluate(state, batches, data.num_classes)
    report.evaluated(state, result, time.monotonic() - began)
    return result.top1


def checked(
    batches: Iterator[stream.Batch], report: Report, watchdog: Watchdog
) -> Iterator[stream.Batch]:
    """The batches, their damaged samples told; each is a sign of life."""
    for batch in batches:
        watchdog.beat()
        report.took(batch.fetched)
        if batch.damaged:
            report.unreadable(batch.damaged)
        yield batch


def crossed(every_epochs: float, before: int, state: engine.State, data: Data) -> bool:
    """Whether the update passed a multiple of every_epochs; the same on every rank."""
    span = every_epochs * data.num_samples
    return int(state.seen / span) > int(before / span)


def save(start: Start, state: engine.State, data: Data, top1: float | None, *, wait: bool) -> None:
    """Keeps the state; every rank must call it, rank 0 writes, beside training unless `wait`."""
    engine.share_buffers(state)
    if start.keeper is None:
        return
    facts = {
        "precision": state.precision,
        "layout": state.layout,
        "num_classes": data.num_classes,
        "top1": top1,
    }
    saved = start.keeper.save(
        state.tensors(),
        update=state.updates,
        seen=state.seen,
        epoch=state.seen // data.num_samples,
        facts=facts,
        wait=wait,
    )
    if saved and top1 is not None:
        start.keeper.score(state.updates, top1)
    if start.keeper.superseded_by:
        raise CheckpointError(
            f"generation {start.generation} is superseded by {start.keeper.superseded_by}:"
            " another group of workers has taken this run over"
        )


def leave(
    cfg: TrainConfig, world: World, start: Start, state: engine.State, report: Report
) -> NoReturn:
    """Ends this rank together with all others after the same update; the exit status is not 0."""
    deadline_s = cfg.checkpoint.deadline_s
    if start.keeper is not None:
        start.keeper.flush(deadline_s)
    report.end(state, "terminated")
    reason = f"terminated on request after update {state.updates}, saved"
    tell_reason(reason)
    if world.rank == 0:
        logger.info("%s", reason)
    world.barrier(deadline_s)
    end_process(TERMINATED)


def finish(
    cfg: TrainConfig, world: World, start: Start, state: engine.State, report: Report
) -> None:
    """Ends the run as done: the last checkpoint is committed before any rank exits with 0."""
    if start.keeper is not None:
        start.keeper.flush(cfg.checkpoint.deadline_s)
        start.keeper.close()
        if start.keeper.last_update != state.updates:
            raise CheckpointError(
                f"the last checkpoint (update {state.updates}) could not be kept under"
                f" {cfg.checkpoint.address}; the run is not done"
            )
    report.end(state, "completed")
    world.barrier(cfg.checkpoint.deadline_s)
    if world.rank == 0:
        logger.info("done: %d samples in %d updates", state.seen, state.updates)
    end_process(0)


class Audit:
    """Records which samples each update had, one file a rank and generation; off without a folder.

    A line is written before the next update begins, so a kill loses none of a kept update.
    """

    def __init__(self, folder: str, generation: int, rank: int) -> None:
        self.path = Path(folder) / f"g{generation:04d}-r{rank}.jsonl" if folder else None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def record(self, step: stream.Step, state: engine.State) -> None:
        """Adds the update that was just done."""
        if self.path is None:
            return
        line = {
            "update": state.updates,
            "epoch": step.epoch,
            "seen": state.seen - (step.stop - step.start),
            "ids": step.ids,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def main() -> None:
    """Reads the run and trains; the exit status is in docs/cli.md."""
    run_entry(TrainConfig, train)


if __name__ == "__main__":
    main()
