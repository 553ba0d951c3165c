"""Groups of parameters, their rates, and steps that are left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from trainer.config import ModelConfig, OptimConfig
from trainer.learn import models
from trainer.learn.optimizer import Mover, parameter_groups


def network(pool: str = "default") -> torch.nn.Module:
    torch.manual_seed(0)
    return models.build(ModelConfig(width=0.125, stem="small", pool=pool), 3)  # type: ignore[arg-type]


def test_gems_power_has_a_rate_of_its_own_and_does_not_decay() -> None:
    built = network("gem_channel")
    groups = parameter_groups(built, OptimConfig(weight_decay=0.5, pool_lr_ratio=7))
    [power] = [group for group in groups if group["lr_scale"] == 7]
    assert [tuple(p.shape) for p in power["params"]] == [(64,)]
    assert power["weight_decay"] == 0
    assert sum(len(group["params"]) for group in groups) == len(list(built.parameters()))


def test_layer_decay_slows_each_stage_against_the_one_above() -> None:
    built = network()
    mover = Mover(built, OptimConfig(layer_decay=0.5))
    mover.set_rate(1.0)
    rates = {
        id(parameter): group["lr"]
        for group in mover.optimizer.param_groups
        for parameter in group["params"]
    }
    found = {name: rates[id(parameter)] for name, parameter in built.named_parameters()}
    assert (found["fc.weight"], found["fc.bias"]) == (1, 1)
    assert found["layer4.0.conv1.weight"] == 0.5
    assert found["layer1.0.bn1.weight"] == found["layer1.1.conv2.weight"] == 0.5**4
    assert found["conv1.weight"] == 0.5**5


@pytest.mark.parametrize("name", ["sgd", "lars", "lamb"])
def test_a_bad_step_is_left_out(name: str) -> None:
    built = network()
    mover = Mover(built, replace(OptimConfig(), name=name))
    before = [parameter.detach().clone() for parameter in built.parameters()]
    for bad, moves in ((1.0, False), (0.0, True)):
        for parameter in built.parameters():
            parameter.grad = torch.ones_like(parameter)
        mover.step(torch.tensor(bad))
        assert all(parameter.grad is None for parameter in built.parameters())
        moved = [
            not torch.equal(parameter, old)
            for parameter, old in zip(built.parameters(), before, strict=True)
        ]
        assert all(moved) == moves == any(moved)


def test_frozen_parameters_are_in_no_group() -> None:
    built = network()
    built.requires_grad_(False)
    built.get_submodule("fc").requires_grad_(True)
    groups = parameter_groups(built, OptimConfig())
    assert sorted(tuple(p.shape) for group in groups for p in group["params"]) == [(3,), (3, 64)]
