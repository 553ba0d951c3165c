"""A run that begins with weights out of a bucket, and goes on without them."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from tests.integration.test_train import Solo
from trainer.config import ModelConfig
from trainer.learn import models
from trainer.storage import open_store


def test_a_run_begins_with_the_weights_and_goes_on_from_its_own(
    s3_address: str, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    weights = models.build(ModelConfig(width=0.125, stem="small"), 11).state_dict()
    store = open_store(s3_address)
    store.put("weights.safetensors", safetensors.torch.save(dict(weights)))
    solo = Solo(tmp_path)
    # So low a rate that no weight moves.
    options = (f"model.pretrained={s3_address}/weights.safetensors", "optim.lr=1e-30")
    status, said = solo.run("epochs=1", *options)
    assert status == 0, said
    assert f"weights of {s3_address}/weights.safetensors, SHA-256 " in said
    assert "fc.weight begins anew: 11 classes there, 3 here" in said
    assert "fc.bias begins anew" in said
    [kept] = solo.folder.rglob("state.safetensors")
    state = safetensors.torch.load_file(kept)
    learnt = [name for name in weights if "running" not in name and "num_batches" not in name]
    for name in learnt:
        if not name.startswith("fc."):
            torch.testing.assert_close(state[f"model.{name}"], weights[name], rtol=0, atol=1e-20)

    store.remove("weights.safetensors")
    status, said = solo.run("epochs=2", *options)
    assert status == 0, said
    other = Solo(tmp_path / "other")
    status, said = other.run("epochs=1", *options)
    assert status == 2
    assert f"error: model.pretrained cannot be read: no such object: {s3_address}/weights" in said
