"""Proof of value: the first losses of a tiny run are pinned, so a refactor may not move them.

`python -m tests.unit.trainer.test_losses_seed0` writes them anew, after a change that is meant to.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.unit.trainer.tiny import ONE_THREAD, TinyRun
from trainer.learn.margins import margins
from trainer.learn.pretrained import CHECKPOINT
from trainer.world import World, join

PINNED = Path(__file__).with_name("losses_seed0.json")
UPDATES = 20
SCC = ("start_ratio=0.1", "q=2", "temperature=1", "floor=0.1")
SELF_LABEL = ["loss.name=self_label", *(f"loss.self_label.{each}" for each in SCC)]
FROZEN = [*SELF_LABEL, "loss.self_label.teacher=checkpoint"]
RUNS = {
    "tiny run": [],
    "binary_cross_entropy": ["loss.name=binary_cross_entropy", "optim.lr=0.001"],
    "focal": ["loss.name=focal"],
    "focal, sigmoid": ["loss.name=focal", "loss.focal.form=sigmoid"],
    "ghm": ["loss.name=ghm"],
    "ghm, sigmoid": ["loss.name=ghm", "loss.ghm.form=sigmoid", "optim.lr=0.001"],
    "gce": ["loss.name=gce"],
    "sce": ["loss.name=sce"],
    "bootstrap": ["loss.name=bootstrap"],
    "bootstrap, soft": ["loss.name=bootstrap", "loss.bootstrap.form=soft"],
    "elr": ["loss.name=elr"],
    "self_label, frozen": FROZEN,
    "self_label, frozen, clean": [*FROZEN, "loss.self_label.view=clean"],
    "self_label, sharpened": [*FROZEN, "loss.self_label.temperature=0.5"],
    "self_label, ema": [*SELF_LABEL, "loss.self_label.teacher=ema"],
    "self_label, self": [*SELF_LABEL, "loss.self_label.teacher=self"],
    "inverse_frequency": ["loss.balance.kind=inverse_frequency"],
    "logit_adjustment": ["loss.balance.kind=logit_adjustment", "loss.balance.tau=0.5"],
    "balanced_softmax": ["loss.balance.kind=balanced_softmax"],
    "cutmix": ["update.cutmix=1.0"],
    "lars": ["optim.name=lars", "optim.lr=1.0"],
    "lamb": ["optim.name=lamb"],
    "margins": ["log.margins=true", "update.mixup=0"],
}
REMEMBERING = [
    "ghm",
    "elr",
    "self_label, frozen",
    "self_label, ema",
    "self_label, self",
    "lars",
    "lamb",
]


@pytest.fixture
def world() -> Iterator[World]:
    yield join(ONE_THREAD)
    dist.destroy_process_group()


@pytest.mark.parametrize("name", RUNS)
def test_the_first_losses_have_not_moved(world: World, tmp_path: Path, name: str) -> None:
    pinned = json.loads(PINNED.read_text())[name]
    found = list(TinyRun(world, tmp_path, RUNS[name]).updates(UPDATES))
    assert found == pytest.approx(pinned, rel=1e-5)
    assert len(pinned) == UPDATES


def test_each_run_has_losses_of_its_own() -> None:
    pinned = json.loads(PINNED.read_text())
    assert pinned.keys() == RUNS.keys()
    assert len({tuple(each) for each in pinned.values()}) == len(RUNS)


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_resume_amid_the_run_is_exact_to_the_bit(world: World, tmp_path: Path, name: str) -> None:
    calm = TinyRun(world, tmp_path, RUNS[name])
    expected = list(calm.updates(UPDATES))
    first = TinyRun(world, tmp_path, RUNS[name])
    assert list(first.updates(11)) == expected[:11]
    kept = {key: value.clone() for key, value in first.state.tensors().items()}
    memory = ("loss.", "momentum.", "square.", "margins.total")
    assert any(key.startswith(memory) and value.abs().sum() > 0 for key, value in kept.items())
    # A file of all that is kept must still be known as a checkpoint of ours.
    assert all(key.startswith(CHECKPOINT) for key in kept)
    second = TinyRun(world, tmp_path, RUNS[name])
    second.state.load(kept, updates=first.state.updates, seen=first.state.seen)
    assert list(second.updates(UPDATES - 11)) == expected[11:]
    ended = second.state.tensors()
    for key, value in calm.state.tensors().items():
        assert torch.equal(value, ended[key]), key


def test_margins_are_means_over_the_epochs(world: World, tmp_path: Path) -> None:
    run = TinyRun(world, tmp_path, ["log.margins=true", "update.mixup=0"])
    list(run.updates(6))  # two epochs of 20
    assert run.state.margins is not None
    assert run.state.margins.count.tolist() == [2] * 20 + [0]
    means = run.state.margins.means()
    assert means.shape == (20,)
    assert means.isfinite().all()
    logits = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]])
    assert margins(logits, torch.tensor([1, 2])).tolist() == [2.0, -2.0]


if __name__ == "__main__":
    alone = join(ONE_THREAD)
    made = {}
    for key, told in RUNS.items():
        with tempfile.TemporaryDirectory() as scratch:
            run = TinyRun(alone, Path(scratch), told)
            made[key] = [round(loss, 7) for loss in run.updates(UPDATES)]
    PINNED.write_text(json.dumps(made, indent=1) + "\n")
