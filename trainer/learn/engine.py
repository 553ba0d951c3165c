"""One update over the global batch. The loop around it is train.py.

Nothing here reads from the device inside an update: losses and counters stay in tensors until
the log asks for them, and an update with a non-finite gradient is skipped on the device.

Letters: b samples of a micro-batch, C H W of a picture, K classes, W ranks, n samples of a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.config import InputConfig, OptimConfig, UpdateConfig
from trainer.data.augment import generator
from trainer.data.stream import Batch, Step
from trainer.learn.losses import Examples, Loss, Mix, draw_mix, one_hot, precise
from trainer.learn.margins import Margins
from trainer.learn.optimizer import Mover
from trainer.learn.placement import memory_format, placed
from trainer.learn.recompute import recompute
from trainer.learn.schedule import ema_decay
from trainer.learn.teachers import Teacher
from trainer.world import Ranks, World


@dataclass
class Counters:
    """What updates add up on the device between two log lines. All float64 scalars."""

    loss: Tensor
    """Weighted losses of this rank's samples, added up."""
    weight: Tensor
    correct: Tensor
    """Samples whose own label scored highest, weighted; of mixed pictures too."""
    nonfinite: Tensor
    """Skipped updates."""
    in_a_row: Tensor
    """Skipped updates since the last good one, at its highest since the last reading."""
    streak: Tensor
    grad_norm: Tensor
    """Of the last update."""

    @classmethod
    def zeros(cls, device: torch.device) -> Counters:
        return cls(*(torch.zeros((), dtype=torch.float64, device=device) for _ in range(7)))

    def read(self) -> dict[str, float]:
        """The values, one read from the device for all; the sums begin again at 0."""
        names = list(self.__dataclass_fields__)
        values = torch.stack([getattr(self, name) for name in names]).tolist()
        for name in ("loss", "weight", "correct", "nonfinite", "in_a_row"):
            getattr(self, name).zero_()
        return dict(zip(names, values, strict=True))


@dataclass
class State:
    """A run's state: everything a checkpoint keeps, and how the device computes it."""

    network: nn.Module
    parallel: DistributedDataParallel
    """The network, perhaps compiled, with its gradients averaged over the ranks."""
    mover: Mover
    ema: dict[str, Tensor]
    """Averaged parameters and buffers by the network's names."""
    loss: Loss
    margins: Margins | None
    teacher: Teacher | None
    world: World
    input: InputConfig
    precision: str
    layout: str
    counters: Counters
    updates: int = 0
    seen: int = 0
    """Samples trained on since the run began."""
    seed: int = 0
    resting: tuple[nn.Module, ...] = ()
    """Parts that stay as they are, running statistics included."""
    timings: dict[str, float] = field(default_factory=lambda: {"data": 0.0, "step": 0.0})
    """Seconds spent waiting for batches, and in updates as a whole."""

    def tensors(self) -> dict[str, Tensor]:
        """The state as flat tensors: model.*, ema.*, momentum.* ..., loss.*, margins.*."""
        flat = {f"model.{name}": value for name, value in self.network.state_dict().items()}
        flat |= {f"ema.{name}": value for name, value in self.ema.items()}
        flat |= self.mover.tensors()
        flat |= {f"loss.{name}": value for name, value in self.loss.state_dict().items()}
        if self.margins is not None:
            flat |= {f"margins.{name}": v for name, v in self.margins.state_dict().items()}
        return flat

    @torch.no_grad()
    def load(self, flat: Mapping[str, Tensor], *, updates: int, seen: int) -> None:
        """Takes what `tensors` gave. Raises ValueError naming a tensor that does not fit."""
        own = self.tensors()
        if own.keys() != flat.keys():
            odd = sorted(own.keys() ^ flat.keys())
            raise ValueError(
                f"the checkpoint holds another network or loss: {len(odd)} tensors differ, first"
                f" {odd[0]}"
            )
        for name, value in flat.items():
            if own[name].shape != value.shape:
                raise ValueError(
                    f"{name} is {tuple(value.shape)} in the checkpoint, but the network's is"
                    f" {tuple(own[name].shape)}"
                )
        self.network.load_state_dict(_part(flat, "model."))
        self.loss.load_state_dict(_part(flat, "loss."))
        if self.margins is not None:
            self.margins.load_state_dict(_part(flat, "margins."))
        for name, value in _part(flat, "ema.").items():
            self.ema[name].copy_(value)
        self.mover.load(flat)
        self.updates, self.seen = updates, seen


def _part(flat: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in flat.items() if name.startswith(prefix)}


def build(
    network: nn.Module,
    world: World,
    loss: Loss,
    *,
    optim: OptimConfig,
    update: UpdateConfig,
    input: InputConfig,
    seed: int,
    precision: str,
    layout: str,
    teacher: Teacher | None = None,
    resting: tuple[nn.Module, ...] = (),
    margins: Margins | None = None,
) -> State:
    """The state before the first update, on the rank's device.

    teacher: a frozen one; the averaged weights teach where the loss wants a teacher and has none.
    resting: parts of the network whose parameters want no gradient, and which stay as they are.
    margins: records each sample's margin.
    """
    if update.grad_checkpointing == "always":
        recompute(network)
    network = placed(network, world.device, layout)
    parallel = DistributedDataParallel(
        network,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        # Rank 0's running statistics count; they travel before an evaluation or a checkpoint
        # (share_buffers), not before every forward pass.
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )
    ema = {name: value.detach().clone() for name, value in network.state_dict().items()}
    if teacher is None and loss.needs_average:
        teacher = Teacher.sharing(network, ema, input)
    if update.compile:
        network.compile()  # in place: names of the state stay
    return State(
        network,
        parallel,
        Mover(network, optim),
        ema,
        loss.to(world.device),
        None if margins is None else margins.to(world.device),
        teacher,
        world,
        input,
        precision,
        layout,
        Counters.zeros(world.device),
        seed=seed,
        resting=resting,
    )


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 for matrix products and convolutions, or nothing for fp32 and int8."""
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def normalise(pixels: Tensor, config: InputConfig, device: torch.device, layout: str) -> Tensor:
    """uint8 pixels on the host to the network's input on the device.

    pixels: (b, 3, H, W) uint8. Returns the same shape in float32.
    """
    moved = pixels.to(device, non_blocking=True)
    moved = moved.to(torch.float32, memory_format=memory_format(layout))
    mean = torch.tensor(config.mean).to(device, non_blocking=True).view(1, 3, 1, 1) * 255
    std = torch.tensor(config.std).to(device, non_blocking=True).view(1, 3, 1, 1) * 255
    return moved.sub_(mean).div_(std)


def update(
    config: UpdateConfig,
    optim: OptimConfig,
    state: State,
    step: Step,
    batches: Iterator[Batch],
    *,
    ema_half_life_samples: float,
    ask: Callable[[], None],
) -> None:
    """One optimiser step over the global batch, whatever the number of ranks.

    Rank r back-propagates W / n times the weighted losses of its samples, added up; the mean over
    the ranks that DistributedDataParallel takes is then the exact mean over the step's n samples.
    ask: called before the last backward pass, to begin what ranks agree on meanwhile.
    """
    began = time.perf_counter()
    waited = 0.0
    num_samples = step.stop - step.start
    scale = state.world.size / num_samples
    # A step's random numbers depend on the step and the rank alone, so a resume repeats them.
    torch.manual_seed(
        generator("dropout", state.seed, state.seen, state.world.rank).getrandbits(63)
    )
    draw = generator("mixup", state.seed, step.epoch, step.start)
    statistics = _running_statistics(state.network)
    state.parallel.train()  # type: ignore[no-untyped-call]
    for part in state.resting:
        part.eval()
    state.loss.begin(state.seen)
    for micro in range(step.num_micros):
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        last = micro == step.num_micros - 1
        mix = draw_mix(config.mixup, config.cutmix, batch.pixels.shape[-1], draw)
        with nullcontext() if last else state.parallel.no_sync():
            loss = _loss(config, state, batch, mix)
            if last:
                ask()
            (loss * scale).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        bad = _step(optim, state)
        _restore(state.network, statistics, bad)
        ranks = Ranks(state.world.size, step.num_micros * config.micro_batch)
        state.loss.settle(ranks, 1 - bad)
        if state.margins is not None:
            state.margins.settle(ranks, 1 - bad)
        _average(state, ema_half_life_samples, num_samples)
    state.updates += 1
    state.seen += num_samples
    state.timings["data"] += waited
    state.timings["step"] += time.perf_counter() - began


def _loss(config: UpdateConfig, state: State, batch: Batch, mix: Mix) -> Tensor:
    """The weighted losses of a micro-batch, added up."""
    device = state.world.device
    own = normalise(batch.pixels, state.input, device, state.layout)
    labels = batch.labels.to(device, non_blocking=True)
    weights = batch.weights.to(device, non_blocking=True)
    shares, weights = mix.shares(weights)
    teaching = None
    if state.loss.teacher:
        assert state.teacher is not None, "build gives one where the loss wants it"
        teaching = _teach(state, state.teacher, batch)
    with autocast(state.precision, device):
        logits = state.parallel(mix.pixels(own))
    examples = Examples(
        labels=labels,
        targets=one_hot(labels, logits.shape[1], config.label_smoothing),
        ids=batch.ids.to(device, non_blocking=True),
        counted=(weights > 0).float(),
        shares=shares,
        teacher=teaching,
    )
    if state.margins is not None:
        state.margins.collect(logits, examples)
    each = state.loss(logits, examples)
    # A weight of 0 must hide even a non-finite loss, which 0 times it would not.
    total = torch.where(weights > 0, each * weights, torch.zeros_like(each)).sum()
    with torch.no_grad():
        state.counters.loss += total
        state.counters.weight += weights.sum()
        state.counters.correct += (weights * (logits.argmax(1) == labels)).sum()
    return total


@torch.no_grad()
def _teach(state: State, teacher: Teacher, batch: Batch) -> Tensor:
    """(b, K) the teacher's logits for the unmixed pictures, or their clean views."""
    seen = batch.pixels if batch.clean is None else batch.clean
    pixels = normalise(seen, teacher.input, state.world.device, state.layout)
    with autocast(state.precision, state.world.device):
        logits: Tensor = teacher.network(pixels)
    return precise(logits)


def _step(optim: OptimConfig, state: State) -> Tensor:
    """Clips, steps unless a gradient is not finite, and counts; all on the device.

    Returns 1 where the step was skipped, else 0, as a float scalar.
    """
    counters = state.counters
    grads = [p.grad for p in state.network.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)).float())
    bad = (~torch.isfinite(norm)).to(torch.float32)
    if optim.clip_norm > 0:
        shrink = torch.clamp(optim.clip_norm / (norm + 1e-6), max=1.0)
        torch._foreach_mul_(grads, torch.nan_to_num(shrink, nan=1.0))
    counters.nonfinite += bad
    counters.streak.add_(1).mul_(bad)
    counters.in_a_row.copy_(torch.maximum(counters.in_a_row, counters.streak))
    counters.grad_norm.copy_(norm)
    state.mover.step(bad)
    return bad


def _float_buffers(network: nn.Module) -> list[Tensor]:
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]


def _running_statistics(network: nn.Module) -> Tensor | None:
    """A copy of the network's running statistics, in one piece; None where it has none."""
    buffers = _float_buffers(network)
    return torch.cat([buffer.flatten() for buffer in buffers]) if buffers else None


def _restore(network: nn.Module, before: Tensor | None, bad: Tensor) -> None:
    """Takes the statistics back where `bad`: once not finite, they would stay so for ever."""
    now = _running_statistics(network)
    if before is None or now is None:
        return
    buffers = _float_buffers(network)
    kept = torch.split(torch.where(bad > 0, before, now), [b.numel() for b in buffers])
    shaped = [part.view_as(buffer) for part, buffer in zip(kept, buffers, strict=True)]
    torch._foreach_copy_(buffers, shaped)


def _average(state: State, half_life_samples: float, num_samples: int) -> None:
    decay = ema_decay(half_life_samples, num_samples, state.updates)
    now = state.network.state_dict()
    names = [name for name, value in now.items() if value.is_floating_point()]
    torch._foreach_lerp_([state.ema[n] for n in names], [now[n] for n in names], 1 - decay)
    for name in now.keys() - set(names):
        state.ema[name].copy_(now[name])


@torch.no_grad()
def share_buffers(state: State) -> None:
    """Gives every rank rank 0's running statistics, of the network and of the average."""
    buffers = [value for _, value in state.network.named_buffers()]
    names = {name for name, _ in state.network.named_buffers()}
    buffers += [value for name, value in state.ema.items() if name in names]
    for buffer in buffers:
        torch.distributed.broadcast(buffer, 0)
