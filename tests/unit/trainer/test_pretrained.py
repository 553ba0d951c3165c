"""Weights taken from real safetensors files: by name, whole, or with one line that says why not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from trainer.config import ConfigError, ModelConfig
from trainer.learn import models, pretrained

SMALL = ModelConfig(width=0.125, stem="small")


def network(seed: int, num_classes: int = 5, config: ModelConfig = SMALL) -> nn.Module:
    torch.manual_seed(seed)
    return models.build(config, num_classes)


def kept(path: Path, weights: Mapping[str, Tensor]) -> str:
    safetensors.torch.save_file(dict(weights), path)
    return path.as_uri()


def weights_of(seed: int, num_classes: int = 5) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network(seed, num_classes).state_dict().items()}


def refused(into: nn.Module, address: str) -> str:
    before = {k: v.clone() for k, v in into.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        pretrained.load(into, address)
    after = into.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()), "untouched"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module._orig_mod.", "model.module."])
def test_the_weights_come_by_name(prefix: str, tmp_path: Path) -> None:
    theirs = weights_of(1)
    into = network(2)
    address = kept(tmp_path / "w.safetensors", {prefix + k: v for k, v in theirs.items()})
    pretrained.load(into, address)
    assert equal(into.state_dict(), theirs)


def test_of_our_own_checkpoint_the_average_is_taken(tmp_path: Path) -> None:
    plain, average = weights_of(1), weights_of(2)
    state = {f"model.{k}": v for k, v in plain.items()}
    state |= {f"ema.{k}": v for k, v in average.items()}
    state |= {f"momentum.{k}": torch.zeros_like(v) for k, v in network(0).named_parameters()}
    state |= {"loss.counts": torch.zeros(30), "margins.total": torch.zeros(9)}
    into = network(3)
    pretrained.load(into, kept(tmp_path / "state.safetensors", state))
    assert equal(into.state_dict(), average)


def test_half_precision_and_absent_counts_are_taken(tmp_path: Path) -> None:
    theirs = {k: v.half() for k, v in weights_of(1).items() if "num_batches" not in k}
    into = network(2)
    pretrained.load(into, kept(tmp_path / "w.safetensors", theirs))
    state = into.state_dict()
    assert state["bn1.num_batches_tracked"] == 0
    assert all(torch.equal(state[name], value.float()) for name, value in theirs.items())


@pytest.mark.parametrize("name", ["resnet18", "dpn68", "legacy_seresnet18"])
def test_a_classifier_of_other_classes_begins_anew_and_the_log_says_so(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """dpn68's is a convolution."""
    config = ModelConfig(name=name)
    theirs = {k: v.clone() for k, v in network(1, 7, config).state_dict().items()}
    into = network(2, 5, config)
    before = {k: v.clone() for k, v in into.state_dict().items()}
    with caplog.at_level(logging.INFO):
        pretrained.load(into, kept(tmp_path / "w.safetensors", theirs))
    after = into.state_dict()
    fresh = {k for k, v in after.items() if v.shape != theirs[k].shape}
    assert len(fresh) == 2
    assert all(torch.equal(after[k], before[k] if k in fresh else theirs[k]) for k in after)
    for key in fresh:
        assert f"{key} begins anew: 7 classes there, 5 here" in caplog.text


def test_a_learnt_power_is_kept_or_begins_where_the_file_has_none(tmp_path: Path) -> None:
    config = ModelConfig(width=0.125, stem="small", pool="gem", pool_p=2.0)
    into = network(2, config=config)
    pretrained.load(into, kept(tmp_path / "plain.safetensors", weights_of(1)))
    assert into.get_parameter("global_pool.p").item() == 2.0
    theirs = weights_of(1) | {"global_pool.p": torch.tensor(1.75)}
    address = kept(tmp_path / "gem.safetensors", theirs)
    pretrained.load(into, address)
    assert into.get_parameter("global_pool.p").item() == 1.75
    assert "1 not expected (global_pool.p)" in refused(network(2), address)


def test_another_network_is_refused_with_names_shapes_and_what_to_do(tmp_path: Path) -> None:
    theirs = weights_of(1)
    for number in range(7):
        theirs[f"extra.{number}"] = torch.zeros(1)
    for name in ("bn1.weight", "layer1.0.bn1.bias"):
        del theirs[name]
    theirs["conv1.weight"] = torch.zeros(3, 3, 3, 3)
    theirs["fc.weight"] = torch.zeros(5, 2)
    address = kept(tmp_path / "w.safetensors", theirs)
    said = refused(network(2), address)
    for part in (
        f"model.pretrained {address} has tensors that do not fit the network ResNet: ",
        "2 missing (bn1.weight, layer1.0.bn1.bias)",
        "7 not expected (extra.0, extra.1, extra.2, extra.3, extra.4, ...)",
        "2 of another shape (",
        "conv1.weight: (3, 3, 3, 3) in the file, (8, 3, 3, 3) in the network",
        "fc.weight: (5, 2) in the file, (5, 64) in the network",
        "; give this network's file, or the fields of model that are the file's",
    ):
        assert part in said


def test_a_classifier_without_its_bias_is_missing_it(tmp_path: Path) -> None:
    theirs = weights_of(1, 7)
    del theirs["fc.bias"]
    assert "1 missing (fc.bias)" in refused(network(2), kept(tmp_path / "w.safetensors", theirs))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + b"0" * 200, b"\x02" + b"\0" * 7 + b"[]"])
def test_other_files_are_refused_and_nothing_is_unpickled(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    said = refused(network(1), path.as_uri())
    assert f"model.pretrained {path.as_uri()} is not a safetensors file: " in said
    assert "convert others with safetensors.torch.save_file" in said


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("file:///nowhere/w.safetensors", "no such object: file:///nowhere/w.safetensors"),
        ("ftp://x/w.safetensors", "no known form"),
    ],
)
def test_an_address_without_a_file_is_told_as_such(address: str, said: str) -> None:
    told = refused(network(1), address)
    assert told.startswith("model.pretrained cannot be read: ")
    assert said in told


def test_an_empty_file_of_tensors_lacks_all(tmp_path: Path) -> None:
    said = refused(network(1), kept(tmp_path / "w.safetensors", {}))
    assert " missing (conv1.weight, " in said
