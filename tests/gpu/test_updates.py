"""The updates of a run on a GPU: as on a CPU, and without a word from the device to the host."""

from __future__ import annotations

import json
import logging
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.unit.trainer.test_losses_seed0 import PINNED, RUNS
from tests.unit.trainer.tiny import TinyRun
from trainer.checkpoint.staging import Staging
from trainer.config import ModelConfig, UpdateConfig
from trainer.learn import memory, models
from trainer.world import World

READING = ("lars", "lamb")
"""timm's optimisers, which cannot leave out a step by themselves."""


@pytest.mark.parametrize("name", RUNS)
def test_first_losses_are_those_of_the_cpu(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    expected = json.loads(PINNED.read_text())[name][:4]
    found = list(TinyRun(world, tmp_path, RUNS[name]).updates(4))
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("name", [name for name in RUNS if name not in READING])
def test_an_update_reads_nothing_from_the_device(world: World, tmp_path: Path, name: str) -> None:
    run = TinyRun(world, tmp_path, RUNS[name])
    for number, (step, parts) in enumerate(islice(run.steps(), 4)):
        # DistributedDataParallel waits once, in the second, to order its buckets.
        torch.cuda.set_sync_debug_mode("error" if number > 1 else "default")
        try:
            run.update(step, parts)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert run.state.updates == 4


def test_a_micro_batch_that_does_not_fit_is_halved(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    network = models.build(ModelConfig(name="resnet50"), 1000)
    config = UpdateConfig(
        micro_batch=4096, grad_checkpointing="never", precision="fp32", layout="nhwc"
    )
    found = memory.settle(network, config, 224, world)
    assert 16 <= found.micro_batch < 4096
    assert "a micro-batch of 4096 does not fit into the memory" in caplog.text
    assert f"taking micro-batches of {found.micro_batch} of the wanted 4096" in caplog.text


def test_a_snapshot_is_of_its_moment(world: World) -> None:
    state = {
        "a": torch.randn(1 << 20, device=world.device),
        "b": torch.ones(3, device=world.device),
    }
    before = {name: value.cpu().clone() for name, value in state.items()}
    staging = Staging(state)
    staging.fill(state)
    for value in state.values():
        value.zero_()  # on the device's queue, behind the copy
    data = b"".join(bytes(chunk) for chunk in list(staging.chunks())[1:])
    for name, field in staging.layout.fields.items():
        kept = torch.frombuffer(bytearray(data[field.start : field.end]), dtype=field.dtype)
        assert torch.equal(kept, before[name])
