"""The micro-batch that fits: found by trying, on modules that have no memory for more."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.config import ConfigError, UpdateConfig, WorldConfig
from trainer.learn import memory
from trainer.world import World, join

PX = 4
CONFIG = UpdateConfig(micro_batch=36, precision="fp32", layout="nchw")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    yield join(WorldConfig())
    dist.destroy_process_group()


class Tried(list[int]):
    """Of a network and all its copies."""

    def __deepcopy__(self, memo: object) -> Tried:
        return self


class Hungry(nn.Module):
    """Has memory for `plain` pictures, and for `recomputed` where its stage is recomputed."""

    def __init__(self, plain: int, recomputed: int = 0, error: Exception | None = None) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
        self.limits = {"Sequential": plain, "RecomputedSequential": recomputed}
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.tried = Tried()

    def forward(self, x: Tensor) -> Tensor:
        self.tried.append(len(x))
        if len(x) > self.limits[type(self.stage).__name__]:
            raise self.error
        answer: Tensor = self.stage(x)
        return answer


def searched(network: nn.Module, world: World, **changes: object) -> tuple[int, str]:
    found = memory.search(network, replace(CONFIG, **changes), PX, world)  # type: ignore[arg-type]
    return found.micro_batch, found.grad_checkpointing


@pytest.mark.parametrize(
    ("plain", "recomputed", "choice", "expected", "tried"),
    [
        (36, 99, "auto", (36, "never"), [36]),
        (35, 99, "auto", (18, "never"), [36, 18]),
        (9, 99, "auto", (9, "never"), [36, 18, 9]),  # a quarter is enough
        (8, 99, "auto", (36, "always"), [36, 18, 9, 5, 36]),
        (8, 20, "auto", (18, "always"), [36, 18, 9, 5, 36, 18]),
        (8, 5, "auto", (5, "never"), [36, 18, 9, 5, 36, 18, 9, 5]),
        (0, 1, "auto", (1, "always"), [36, 18, 9, 5, 3, 2, 1] * 2),
        (8, 99, "never", (5, "never"), [36, 18, 9, 5]),
        (1, 99, "never", (1, "never"), [36, 18, 9, 5, 3, 2, 1]),
        (99, 99, "always", (36, "always"), [36]),
        (99, 10, "always", (9, "always"), [36, 18, 9]),
    ],
)
def test_it_is_halved_until_it_fits(
    plain: int,
    recomputed: int,
    choice: str,
    expected: tuple[int, str],
    tried: list[int],
    world: World,
) -> None:
    network = Hungry(plain, recomputed)
    assert searched(network, world, grad_checkpointing=choice) == expected
    assert network.tried == tried


def test_a_network_without_blocks_is_halved_all_the_same(world: World) -> None:
    network = Hungry(2)
    network.stage = nn.Conv2d(3, 2, 1)  # type: ignore[assignment]
    network.limits["Conv2d"] = 2
    assert searched(network, world) == (2, "never")


def test_what_is_tried_and_taken_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        searched(Hungry(8, 20), world)
        assert caplog.messages == [
            "a micro-batch of 36 does not fit into the memory",
            "a micro-batch of 18 does not fit into the memory",
            "a micro-batch of 9 does not fit into the memory",
            "a micro-batch of 36 does not fit into the memory with gradient checkpointing",
            "taking micro-batches of 18 of the wanted 36, with gradient checkpointing",
        ]
        caplog.clear()
        searched(Hungry(36), world)
        assert caplog.messages == []


@pytest.mark.parametrize(
    ("choice", "hint"),
    [("auto", "or smaller pictures"), ("never", "set update.grad_checkpointing")],
)
def test_where_not_one_picture_fits_a_line_says_so(choice: str, hint: str, world: World) -> None:
    with pytest.raises(ConfigError) as caught:
        searched(Hungry(0, 0), world, grad_checkpointing=choice)
    told = str(caught.value)
    assert "not one picture of 4 px (input.size_px) fits into the memory of the cpu" in told
    assert hint in told
    assert "\n" not in told


def test_a_library_that_finds_no_memory_counts_too_and_other_errors_do_not(world: World) -> None:
    failed = RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
    assert searched(Hungry(10, error=failed), world) == (9, "never")
    with pytest.raises(RuntimeError, match="shapes"):
        searched(Hungry(10, error=RuntimeError("shapes do not match")), world)


def test_trying_leaves_no_trace(world: World) -> None:
    network = Hungry(9, 99)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    searched(network, world)
    assert torch.equal(torch.rand(3), expected)
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in network.parameters())
    assert type(network.stage) is nn.Sequential
    assert network.training


@pytest.mark.parametrize(
    ("configured", "global_batch", "size", "device", "expected"),
    [
        (36, 192, 1, "cpu", 36),
        (36, 8, 1, "cuda", 36),
        (0, 192, 1, "cpu", 32),
        (0, 192, 8, "cpu", 24),
        (0, 7, 2, "cpu", 4),
        (0, 192, 1, "cuda", 192),
        (0, 1152, 64, "cuda", 18),
    ],
)
def test_what_is_wanted(
    configured: int, global_batch: int, size: int, device: str, expected: int
) -> None:
    group = World(0, size, torch.device(device), None)  # type: ignore[arg-type]
    config = UpdateConfig(micro_batch=configured, global_batch=global_batch)
    assert memory.wanted_micro_batch(config, group) == expected


def test_on_a_cpu_nothing_is_tried_and_nothing_is_left_open(world: World) -> None:
    network = Hungry(0)
    settled = memory.settle(network, replace(CONFIG, micro_batch=0), PX, world)
    assert settled == replace(CONFIG, micro_batch=32, grad_checkpointing="never")
    settled = memory.settle(network, replace(CONFIG, grad_checkpointing="always"), PX, world)
    assert settled == replace(CONFIG, grad_checkpointing="always")
    assert network.tried == []


def test_precision_and_layout_are_the_checkpoints_or_the_fastest(world: World) -> None:
    network = Hungry(99)
    auto = replace(CONFIG, precision="auto", layout="auto", micro_batch=2)
    kept = memory.settle(network, auto, PX, world, ("bf16", "nhwc"))
    assert (kept.precision, kept.layout, kept.micro_batch) == ("bf16", "nhwc", 2)
    assert network.tried == []
    timed = memory.settle(network, auto, PX, world)
    assert timed.precision in ("fp32", "bf16")
    assert timed.layout in ("nchw", "nhwc")
    assert set(network.tried) == {2}


def test_recomputed_blocks_are_timed_as_such(world: World) -> None:
    network = Hungry(0, 99)
    config = replace(CONFIG, layout="auto", micro_batch=2, grad_checkpointing="always")
    assert memory.settle(network, config, PX, world).grad_checkpointing == "always"
    assert type(network.stage) is nn.Sequential
