"""Networks compiled with their weights as constants."""

from __future__ import annotations

import pytest
import torch
import torch._inductor.config as inductor
from torch import nn

from tests.conftest import absent
from trainer.learn.frozen import frozen
from trainer.learn.placement import has_compiler


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if not has_compiler(torch.device("cpu")):
        absent("there is no C++ compiler; apt-get install g++")


def test_weights_are_constants_and_answers_the_same() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    nn.init.normal_(network[1].running_mean)
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = network(pixels)
    ask = frozen(network, dynamic=False)
    assert ask(pixels) == pytest.approx(expected, abs=1e-5)
    for each in network.parameters():
        nn.init.zeros_(each)
    assert ask(pixels) == pytest.approx(expected, abs=1e-5)
    assert not network(pixels).any()


def test_no_other_compiling_is_frozen() -> None:
    frozen(nn.Linear(4, 4), dynamic=True)(torch.ones(2, 4))
    assert not inductor.freezing
