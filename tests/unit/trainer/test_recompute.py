"""Recomputed blocks give the same outputs, gradients and running statistics, and keep less."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from timm.models.nasnet import NASNetALarge
from torch import Tensor, nn

from tests.unit.trainer.test_engine import make_batch
from trainer.config import (
    ConfigError,
    InputConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    UpdateConfig,
    WorldConfig,
)
from trainer.data.stream import Step
from trainer.learn import engine, losses, models
from trainer.learn.recompute import blocks, recompute
from trainer.world import World, join

# How many blocks each of the recipes' networks has, and the kinds of most of them.
SEVEN = {
    "senet154": (51, "Bottleneck"),
    "resnext152d_32x4d": (51, "Bottleneck"),
    "seresnet152": (50, "Bottleneck"),
    "legacy_senet154": (51, "SEBottleneck"),
    "nasnetalarge": (23, "NormalCell"),
    "pnasnet5large": (15, "Cell"),
    "inception_resnet_v2": (49, "Block17"),
    "dpn98": (33, "DualPathBlock"),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other take minutes for many small layers on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Block(nn.Sequential):
    """Layers of which the backward pass needs much: a norm, dropout and a power."""

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, momentum=momentum)
        self.drop = nn.Dropout(0.3)
        self.act = nn.ReLU(inplace=True)


def tiny(momentum: float | None = 0.1) -> nn.Module:
    stages = [nn.Sequential(Block(momentum), Block(momentum)) for _ in range(2)]
    return nn.Sequential(nn.Conv2d(3, 4, 1), *stages, nn.Flatten(), nn.Linear(4 * 64, 2))


def network(name: str) -> tuple[nn.Module, int]:
    """A small network of a family, and the side of its pictures."""
    torch.manual_seed(0)
    if name == "tiny":
        return tiny(), 8
    if name == "tiny, plain average":
        return tiny(momentum=None), 8
    if name == "nasnet":
        return NASNetALarge(num_classes=3, num_features=24 * 4, stem_size=8), 64
    if name == "resnet18":
        return models.build(ModelConfig(width=0.125, stem="small", drop_rate=0.2), 3), 32
    return models.build(ModelConfig(name=name), 3), 64


def passes(net: nn.Module, size_px: int, precision: str = "fp32") -> list[Tensor]:
    """Outputs, gradients and statistics of two forward and backward passes."""
    torch.manual_seed(1)
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # from 0, as ResNets begin, no gradient would come through
    results = []
    for _ in range(2):
        x = torch.randn(2, 3, size_px, size_px)
        with engine.autocast(precision, torch.device("cpu")):
            answer = net(x)
        answer.float().square().mean().backward()
        results.append(answer.detach())
    grads = [parameter.grad for parameter in net.parameters()]
    assert sum(bool(grad.any()) for grad in grads if grad is not None) > len(grads) / 2
    return [*results, *(grad for grad in grads if grad is not None), *net.state_dict().values()]


@pytest.mark.parametrize(
    "name", ["tiny", "tiny, plain average", "nasnet", "resnet18", "legacy_seresnet18", "dpn48b"]
)
def test_nothing_differs_not_even_a_bit(name: str) -> None:
    plain, size_px = network(name)
    other = copy.deepcopy(plain)
    recompute(other)
    assert plain.state_dict().keys() == other.state_dict().keys()
    expected, got = passes(plain, size_px), passes(other, size_px)
    assert len(expected) == len(got)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_nothing_differs_in_bf16() -> None:
    plain, size_px = network("tiny")
    other = copy.deepcopy(plain)
    recompute(other)
    expected, got = passes(plain, size_px, "bf16"), passes(other, size_px, "bf16")
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_a_norm_is_as_it_was_even_after_a_backward_pass_that_failed() -> None:
    net, size_px = network("tiny")
    recompute(net)
    norm = net.get_submodule("1.0.norm")
    assert isinstance(norm, nn.BatchNorm2d)
    conv = net.get_submodule("1.0.conv")
    loss = net.train()(torch.randn(2, 3, size_px, size_px)).sum()
    failing = conv.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss.backward()
    failing.remove()
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 1


def test_less_is_kept_for_the_way_back() -> None:
    def kept_bytes(net: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            answer = net.train()(x)
        del answer
        return sum(sizes.values()) - sum(p.nbytes for p in net.parameters())

    plain, size_px = network("resnet18")
    other = copy.deepcopy(plain)
    recompute(other)
    x = torch.randn(8, 3, size_px, size_px)
    assert kept_bytes(other) < kept_bytes(plain) / 3


def test_without_gradients_a_copy_answers_as_before() -> None:
    net, size_px = network("resnet18")
    x = torch.randn(2, 3, size_px, size_px)
    net.eval()
    with torch.no_grad():
        before = net(x)
        recompute(net)
        assert torch.equal(copy.deepcopy(net)(x), before)
    assert type(net).__name__ == "ResNet"


@pytest.mark.parametrize("name", SEVEN)
def test_the_recipes_networks_are_cut_into_their_blocks(name: str) -> None:
    with torch.device("meta"):
        net = models.build(ModelConfig(name=name), 10)
    found = blocks(net)
    count, kind = SEVEN[name]
    assert len(found) == count
    kinds = [type(block).__name__ for block in found]
    assert max(kinds, key=kinds.count) == kind
    inside = {id(p) for block in found for p in block.parameters()}
    head = net.get_classifier()  # type: ignore[operator]
    assert not inside & {id(p) for p in head.parameters()}
    outside = [p.numel() for p in net.parameters() if id(p) not in inside]
    assert sum(outside) - sum(p.numel() for p in head.parameters()) < 20_000
    assert len({id(module) for block in found for module in block.modules()}) == sum(
        len(list(block.modules())) for block in found
    ), "none inside another"
    recompute(net)


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the network Linear has no blocks .* set it to never"):
        recompute(nn.Linear(2, 2))


def test_a_compiler_takes_it_and_counts_a_batch_once() -> None:
    plain = nn.Sequential(Block(), nn.Flatten(), nn.Linear(4 * 64, 2))
    plain.get_submodule("0.drop").eval()
    plain[0].drop.p = 0.0
    other = copy.deepcopy(plain)
    recompute(other)
    other.compile(backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 4, 8, 8)
    for net in (plain, other):
        net(x).square().mean().backward()
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)


@pytest.fixture
def world() -> Iterator[World]:
    yield join(WorldConfig())
    dist.destroy_process_group()


def test_updates_are_the_same(world: World) -> None:
    states = []
    for choice in ("never", "always"):
        config = UpdateConfig(
            mixup=0,
            precision="fp32",
            layout="nchw",
            grad_checkpointing=choice,  # type: ignore[arg-type]
        )
        torch.manual_seed(0)
        optim = OptimConfig()
        state = engine.build(
            nn.Sequential(nn.Conv2d(3, 4, 1), Block(), nn.Flatten(), nn.Linear(4 * 16, 3)),
            world,
            losses.build(LossConfig(), losses.Labels(torch.full((3,), 4), 12, 12, 12)),
            optim=optim,
            update=config,
            input=InputConfig(),
            seed=0,
            precision="fp32",
            layout="nchw",
        )
        for number in range(3):
            step = Step(0, state.seen, state.seen + 4, (0, 1, 2, 3), 1)
            engine.update(
                config,
                optim,
                state,
                step,
                iter([make_batch(step, [0, 1, 2, 0], [1, 1, 1, 1], number)]),
                ema_half_life_samples=100,
                ask=lambda: None,
            )
        states.append({name: value.clone() for name, value in state.tensors().items()})
    off, on = states
    assert off.keys() == on.keys()
    assert [name for name, value in off.items() if not torch.equal(value, on[name])] == []
