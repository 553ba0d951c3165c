"""How networks are asked: passes and padding change nothing; what is allowed is what is tried."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.config import EnsembleConfig, InputConfig, ModelConfig
from trainer.infer import forward
from trainer.infer.crops import crop_set
from trainer.infer.forward import Forward, Manner, choose
from trainer.infer.predictions import mean_answer
from trainer.learn import fastest, models
from trainer.learn.engine import normalise

CPU = torch.device("cpu")
INPUT = InputConfig(size_px=32)
PLAIN = Manner("fp32", "nchw", "off", 4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Its running statistics are not those of a fresh one."""
    torch.manual_seed(0)
    made = models.build(ModelConfig(name="resnet18", width=0.125, stem="small"), 7).train()
    with torch.no_grad():
        for _ in range(20):
            made(torch.randn(16, 3, 32, 32))
    return made.eval()


def views(count: int, side: int = 32) -> Tensor:
    draw = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, 3, side, side), generator=draw, dtype=torch.uint8)


def plainly(network: nn.Module, of: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(normalise(of, INPUT, CPU, "nchw"))
    return logits


@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_answers_do_not_depend_on_passes(network: nn.Module, batch: int, layout: str) -> None:
    of = views(7)
    found = Forward(network, INPUT, Manner("fp32", layout, "off", batch), CPU)(of)
    assert torch.allclose(found, plainly(network, of), atol=1e-4)


def test_mirrored_views_are_flipped(network: nn.Module) -> None:
    of = views(5)
    found = Forward(network, INPUT, PLAIN, CPU)(of, mirrored=True)
    assert torch.allclose(found, plainly(network, of.flip(-1)), atol=1e-4)
    assert not torch.allclose(found, plainly(network, of), atol=1e-2)


def test_bf16_is_near(network: nn.Module) -> None:
    of = views(8)
    found = Forward(network, INPUT, dataclasses.replace(PLAIN, precision="bf16"), CPU)(of)
    assert found.dtype == torch.float32
    assert torch.allclose(found.softmax(1), plainly(network, of).softmax(1), atol=0.03)


@pytest.mark.parametrize("form", ["probabilities", "logits"])
@pytest.mark.parametrize("name", ["2", "multiscale"])
def test_the_mean_is_over_all_views(network: nn.Module, name: str, form: str) -> None:
    crops = crop_set(name, 32, 0.875)
    of = {kind: views(3 * kind.number, kind.side_px).unflatten(0, (3, -1)) for kind in crops.views}
    found = mean_answer(Forward(network, INPUT, PLAIN, CPU), crops, of, form)
    total = torch.zeros(3, 7)
    for each in of.values():
        for row in range(3):
            for view in each[row]:
                for one in (view[None], view[None].flip(-1)):
                    logits = plainly(network, one)[0]
                    total[row] += logits.softmax(0) if form == "probabilities" else logits
    assert torch.allclose(found, total / crops.number, atol=1e-4)


def tried(monkeypatch: pytest.MonkeyPatch) -> list[Manner]:
    """The manners that are timed; the later the faster."""
    manners: list[Manner] = []

    def timed(asked: Forward, _: Tensor) -> float:
        manners.append(asked.manner)
        return 1.0 / len(manners)

    monkeypatch.setattr(forward, "seconds", timed)
    monkeypatch.setattr(fastest, "has_bf16", lambda _: True)
    return manners


def test_what_is_left_open_is_tried(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    manners = tried(monkeypatch)
    found = choose(network, INPUT, EnsembleConfig(), 32, 10, CPU)
    assert {(m.precision, m.layout) for m in manners[:4]} == {
        (p, lay) for p in ("fp32", "bf16") for lay in ("nchw", "nhwc")
    }
    assert [m.batch for m in manners[4:]] == list(forward.CPU_BATCHES)
    assert found == manners[-1]
    assert found.compiled == "off"


def test_what_is_said_is_kept(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    manners = tried(monkeypatch)
    config = EnsembleConfig(precision="fp32", layout="nhwc", batch=5, compile="off")
    found = choose(network, INPUT, config, 32, 1 << 40, CPU)
    assert found == Manner("fp32", "nhwc", "off", 5)
    assert set(manners) == {found}


@pytest.mark.parametrize(("num_views", "compiled"), [(10, "off"), (1 << 30, "inductor")])
def test_much_work_is_compiled_for(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch, num_views: int, compiled: str
) -> None:
    tried(monkeypatch)
    monkeypatch.setattr(forward, "has_compiler", lambda _: True)
    assert choose(network, INPUT, EnsembleConfig(), 32, num_views, CPU).compiled == compiled


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"compile": "tensorrt"}, "compile is tensorrt, but there is no GPU here, or no torch-ten"),
        ({"precision": "int8"}, "precision is int8, which needs torchao; pip install"),
    ],
)
def test_what_is_not_here_is_told(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], told: str
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(forward.ConfigError, match=told):
        choose(network, INPUT, EnsembleConfig(**said), 32, 10, CPU)


def test_on_without_a_compiler_is_told(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "has_compiler", lambda _: False)
    config = EnsembleConfig(precision="fp32", layout="nchw", batch=2, compile="on")
    with pytest.raises(forward.ConfigError, match="compile is on, but there is no compiler here"):
        choose(network, INPUT, config, 32, 10, CPU)
