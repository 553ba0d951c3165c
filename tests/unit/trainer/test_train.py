"""What a run is checked for before it trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.trainer.shards import write_shards
from trainer.config import ConfigError, TrainConfig, parse
from trainer.data.shards import DatasetError
from trainer.train import open_data


def make_config(*options: str) -> TrainConfig:
    return parse(TrainConfig, "{checkpoint: {address: /tmp/x}}", options, source="run.yaml")


@pytest.fixture
def address(tmp_path: Path) -> str:
    return write_shards(tmp_path / "data", count=12)


def test_an_epoch_is_what_is_selected(address: str, tmp_path: Path) -> None:
    np.save(tmp_path / "half.npy", np.arange(0, 12, 2))
    whole = open_data(make_config("epochs=2.5", f"data.train={address}"))
    half = open_data(
        make_config("epochs=2.5", f"data.train={address}", f"data.selection={tmp_path}/half.npy")
    )
    assert (whole.num_samples, whole.goal, whole.num_classes) == (12, 30, 3)
    assert (half.num_samples, half.goal) == (6, 15)
    differing = {key for key in whole.identity if whole.identity[key] != half.identity[key]}
    assert differing == {"selection"}


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["model.num_classes=2"], ["data.train has 3 classes", "head has 2", "model.num_classes"]),
        (["data.train=/nowhere/at/all"], ["/nowhere/at/all: it has no manifest.json"]),
        (["data.val=/nowhere/at/all"], ["/nowhere/at/all: it has no manifest.json"]),
        (["data.selection={tmp}/gone.npy"], ["{tmp}/gone.npy"]),
        (["data.selection={tmp}/far.npy"], ["{tmp}/far.npy", "from 0 to 11"]),
        (["data.selection={tmp}/float.npy"], ["{tmp}/float.npy", "float32"]),
        (["data.weights={tmp}/short.npy"], ["{tmp}/short.npy", "12"]),
    ],
    ids=lambda value: value[0],
)
def test_wrong_data_is_one_line_naming_it(
    options: list[str], parts: list[str], address: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "far.npy", np.array([0, 12]))
    np.save(tmp_path / "float.npy", np.ones(3, np.float32))
    np.save(tmp_path / "short.npy", np.ones(3, np.float32))
    given = [option.format(tmp=tmp_path) for option in options]
    with pytest.raises((ConfigError, DatasetError)) as caught:
        open_data(make_config(f"data.train={address}", *given))
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part.format(tmp=tmp_path) not in message] == [], message
