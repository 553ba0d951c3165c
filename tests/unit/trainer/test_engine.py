"""One update and one evaluation in a group of one rank, on a network small enough to reckon by."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.config import InputConfig, OptimConfig, UpdateConfig, WorldConfig
from trainer.data.stream import Batch, Part, Step
from trainer.learn import engine, evaluation, optimizer
from trainer.learn.losses import CrossEntropy
from trainer.learn.schedule import ema_decay
from trainer.world import World, join

CLASSES = 3
HALF_LIFE = 100.0
"""Of the average, in samples."""
UPDATE = UpdateConfig(mixup=0, label_smoothing=0, precision="fp32", layout="nchw")
OPTIM = OptimConfig(lr=0.1, weight_decay=0.5)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    yield join(WorldConfig())
    dist.destroy_process_group()


class Tiny(nn.Module):
    """Mean colour to classes, with a norm layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(pixels).mean((2, 3)))
        return logits


def make_state(world: World) -> engine.State:
    torch.manual_seed(0)
    return engine.build(
        Tiny(),
        world,
        CrossEntropy(),
        optim=OPTIM,
        update=UPDATE,
        input=InputConfig(),
        seed=0,
        precision="fp32",
        layout="nchw",
    )


def make_batch(step: Step, labels: list[int], weights: list[float], seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (len(labels), 3, 4, 4), dtype=torch.uint8, generator=draw)
    part = Part(step, tuple(range(len(labels))))
    return Batch(part, pixels, torch.tensor(labels), torch.tensor(weights))


def make_update(state: engine.State, weights: list[float], seed: int = 0) -> list[bool]:
    """One update over four samples; what was asked meanwhile."""
    step = Step(0, state.seen, state.seen + 4, (0, 1, 2, 3), 1)
    asked: list[bool] = []
    engine.update(
        UPDATE,
        OPTIM,
        state,
        step,
        iter([make_batch(step, [0, 1, 2, 0], weights, seed)]),
        ema_half_life_samples=HALF_LIFE,
        ask=lambda: asked.append(True),
    )
    return asked


def copies(state: engine.State, prefix: str) -> dict[str, Tensor]:
    return {
        name: value.clone() for name, value in state.tensors().items() if name.startswith(prefix)
    }


def test_an_update_counts_its_samples_and_asks_once(world: World) -> None:
    state = make_state(world)
    assert make_update(state, [1, 1, 1, 1]) == [True]
    make_update(state, [1, 1, 1, 1], seed=1)
    assert (state.updates, state.seen) == (2, 8)
    read = state.counters.read()
    assert (read["weight"], read["nonfinite"]) == (8, 0)
    assert 0 < read["loss"] / 8 < 3 * math.log(CLASSES)
    assert state.counters.read()["weight"] == 0


def test_a_non_finite_gradient_changes_no_weight_and_is_counted(world: World) -> None:
    state = make_state(world)
    make_update(state, [1, 1, 1, 1])
    state.counters.read()
    names = ("model.head", "model.norm.weight", "model.norm.bias", "momentum.")
    before = {name: value for prefix in names for name, value in copies(state, prefix).items()}
    for _ in range(2):
        make_update(state, [math.inf, 1, 1, 1])
    now = state.tensors()
    assert [name for name, value in before.items() if not torch.equal(now[name], value)] == []
    assert all(torch.isfinite(value).all() for value in now.values())
    make_update(state, [1, 1, 1, 1])
    assert not torch.equal(state.tensors()["model.head.weight"], before["model.head.weight"])
    read = state.counters.read()
    assert (read["nonfinite"], read["in_a_row"]) == (2, 2)
    assert (state.updates, state.seen) == (4, 16)


def test_an_overflow_inside_the_network_does_not_stay_in_its_statistics(world: World) -> None:
    state = make_state(world)
    make_update(state, [1, 1, 1, 1])
    before = copies(state, "model.norm.running_")
    network = state.network
    assert isinstance(network, Tiny)
    overflow = network.norm.register_forward_pre_hook(lambda _, given: (given[0] * math.inf,))
    make_update(state, [1, 1, 1, 1])
    overflow.remove()
    now = state.tensors()
    assert [name for name, value in before.items() if not torch.equal(now[name], value)] == []
    assert all(torch.isfinite(value).all() for value in now.values())
    make_update(state, [1, 1, 1, 1])
    assert not torch.equal(now["model.norm.running_mean"], before["model.norm.running_mean"])
    assert state.counters.read()["nonfinite"] == 1


def test_a_sample_of_weight_0_leaves_no_trace_in_the_gradient(world: World) -> None:
    """Its pixels still pass through batch norm, so the pixels are kept and the label changed."""
    first, second = make_state(world), make_state(world)
    step = Step(0, 0, 4, (0, 1, 2, 3), 1)
    for state, label in ((first, 0), (second, 2)):
        batch = make_batch(step, [0, 1, 2, label], [1, 1, 1, 0])
        engine.update(
            UPDATE,
            OPTIM,
            state,
            step,
            iter([batch]),
            ema_half_life_samples=HALF_LIFE,
            ask=lambda: None,
        )
    other = second.tensors()
    assert all(torch.equal(value, other[name]) for name, value in first.tensors().items())


def test_biases_and_norms_do_not_decay(world: World) -> None:
    network = Tiny()
    free, decayed = optimizer.parameter_groups(network, OptimConfig(weight_decay=0.5))
    assert [id(p) for p in decayed["params"]] == [id(network.head.weight)]
    assert {id(p) for p in free["params"]} == {
        id(network.head.bias),
        id(network.norm.weight),
        id(network.norm.bias),
    }
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.5, 0)


def test_the_gradient_norm_is_clipped(world: World) -> None:
    state = make_state(world)
    before = copies(state, "model.head.bias")
    step = Step(0, 0, 4, (0, 1, 2, 3), 1)
    optim = OptimConfig(lr=1.0, weight_decay=0, momentum=0, nesterov=False, clip_norm=1e-3)
    state.mover.optimizer.param_groups[1].update(lr=1.0, momentum=0, nesterov=False)
    batch = make_batch(step, [0, 0, 0, 0], [1, 1, 1, 1])
    engine.update(
        UPDATE, optim, state, step, iter([batch]), ema_half_life_samples=1, ask=lambda: None
    )
    moved = state.tensors()["model.head.bias"] - before["model.head.bias"]
    assert 0 < moved.norm() <= 1.001e-3
    assert state.counters.read()["grad_norm"] > 1e-2  # as it was before clipping


def test_the_average_follows_its_formula(world: World) -> None:
    state = make_state(world)
    expected = copies(state, "ema.head.weight")["ema.head.weight"]
    for update in range(3):
        make_update(state, [1, 1, 1, 1], seed=update)
        decay = ema_decay(HALF_LIFE, 4, update)
        expected = decay * expected + (1 - decay) * state.tensors()["model.head.weight"]
    torch.testing.assert_close(state.tensors()["ema.head.weight"], expected)
    # Running statistics are averaged too; their counter is taken as it is.
    assert state.ema["norm.num_batches_tracked"] == 3
    assert not torch.equal(state.ema["norm.running_mean"], state.network.norm.running_mean)


def test_a_state_reads_back_as_it_was_written(world: World) -> None:
    state, other = make_state(world), make_state(world)
    make_update(state, [1, 1, 1, 1])
    other.load(copies(state, ""), updates=1, seen=4)
    make_update(state, [1, 1, 1, 1], seed=1)
    make_update(other, [1, 1, 1, 1], seed=1)
    again = other.tensors()
    assert all(torch.equal(value, again[name]) for name, value in state.tensors().items())


def test_a_state_of_another_network_is_refused_by_name(world: World) -> None:
    state = make_state(world)
    flat = copies(state, "")
    with pytest.raises(ValueError, match=r"network or loss: 1 tensors differ, first ema\.he"):
        state.load(flat | {"ema.head.bias_": torch.zeros(3)}, updates=1, seen=1)
    with pytest.raises(ValueError, match=r"^model\.head\.bias is \(5,\) .* network's is \(3,\)$"):
        state.load(flat | {"model.head.bias": torch.zeros(5)}, updates=1, seen=1)


def test_an_evaluation_counts_each_sample_once_plainly_and_by_class(world: World) -> None:
    state = make_state(world)
    make_update(state, [1, 1, 1, 1])
    with torch.no_grad():  # the averaged weights always answer class 1
        state.ema["head.weight"].zero_()
        state.ema["head.bias"].copy_(torch.tensor([0.0, 2.0, 1.0]))
    own = copies(state, "model.")
    step = Step(0, 0, 7, (), 1)
    batches = [
        make_batch(step, [0, 0, 0, 1], [1, 1, 1, 1]),
        make_batch(step, [1, 2, 2, 1], [1, 1, 1, 0]),  # the last one fills the batch up
    ]
    result = evaluation.evaluate(state, iter(batches), CLASSES)
    assert result.num_samples == 7
    assert result.top1 == pytest.approx(2 / 7)
    assert result.class_top1 == pytest.approx((0 + 1 + 0) / 3)
    assert (result.top5, result.class_top5) == (1, 1)  # of three classes, top 3 is taken
    log_sum = math.log(1 + math.e**2 + math.e)
    expected_loss = (7 * log_sum - 2 * 2 - 2 * 1) / 7
    assert result.loss == pytest.approx(expected_loss)
    now = state.tensors()
    assert [name for name, value in own.items() if not torch.equal(now[name], value)] == []


def test_classes_without_pictures_do_not_count(world: World) -> None:
    counts = torch.tensor([[4.0, 2, 3], [0, 0, 0], [1, 1, 1], [2.5, 0, 0]], dtype=torch.float64)
    result = evaluation._accuracy(counts)
    assert (result.top1, result.class_top1) == (3 / 5, 3 / 4)
    assert (result.top5, result.class_top5) == (4 / 5, 7 / 8)
    assert (result.loss, result.num_samples) == (0.5, 5)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("int8", torch.float32)],
)
def test_bf16_alone_is_cast_to(precision: str, dtype: torch.dtype) -> None:
    ones = torch.ones(2, 2)
    with engine.autocast(precision, torch.device("cpu")):
        assert (ones @ ones).dtype == dtype
