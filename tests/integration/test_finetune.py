"""Fine-tuning as real processes: what it begins from, what moves, what it refuses, its resume."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.integration.test_train import BATCH, OPTIONS, SAMPLES
from tests.raws import write_dataset

COLOURS = np.array([(200, 60, 60), (60, 200, 60), (60, 60, 200)])
EPOCHS = 8
"""Of the source: enough to tell three colours apart."""
LIMIT_S = 200.0
LARGER = ("input.size_px=40", "model.pool=gem", "optim.lr=0.02", "optim.warmup_epochs=0")


@dataclass(frozen=True)
class Ran:
    """A folder of a run, and what its process said."""

    folder: Path
    said: str = ""

    def lines(self, event: str) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def manifests(self) -> list[Path]:
        return sorted(self.folder.glob("step-*/manifest.json"))

    def tensors(self) -> dict[str, Tensor]:
        """Of the newest checkpoint."""
        manifest = json.loads(self.manifests()[-1].read_text())
        return load_file(self.folder / manifest["objects"][0]["key"])


def start(module: str, folder: Path, data: Path, options: Sequence[str]) -> subprocess.Popen[str]:
    common = [each for each in OPTIONS if not each.startswith("log.every_s")]
    places = [f"data.train={data}", f"data.val={data}", f"checkpoint.address={folder}"]
    easy = ["update.mixup=0", "update.label_smoothing=0", "optim.warmup_epochs=1", "log.every_s=0"]
    return subprocess.Popen(
        [sys.executable, "-m", module, *common, *easy, *places, *options],
        env=os.environ | {"RUN_CONFIG": "name: solo\n"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str], folder: Path, status: int = 0) -> Ran:
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == status, said
    return Ran(folder, said)


def coloured(number: int) -> bytes:
    """A JPEG whose colour tells its class, number % 3, below much noise."""
    noise = np.random.default_rng(number).normal(0, 50, (48, 48, 3))
    pixels = np.clip(COLOURS[number % 3] + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coloured") / "data"
    write_dataset(str(folder), [coloured(number) for number in range(SAMPLES)])
    return folder


@pytest.fixture(scope="module")
def source(data: Path) -> Ran:
    """A run of trainer.train at 32 px, done."""
    folder = data.parent / "source"
    return finished(start("trainer.train", folder, data, [f"epochs={EPOCHS}"]), folder)


def tuned(source: Ran, folder: Path, *options: str, status: int = 0) -> Ran:
    return finished(tuning(source, folder, *options), folder, status)


def tuning(source: Ran, folder: Path, *options: str) -> subprocess.Popen[str]:
    data = source.folder.parent / "data"
    begin = f"start.address={source.folder}"
    return start("trainer.finetune", folder, data, [begin, *LARGER, *options])


def moved(source: Ran, run: Ran, part: str = "model") -> set[str]:
    """Names of the network's tensors that are not the source's averaged ones bit for bit."""
    before, after = source.tensors(), run.tensors()
    names = {name.removeprefix("ema.") for name in before if name.startswith("ema.")}
    return {
        name
        for name in names
        if not torch.equal(before[f"ema.{name}"], after[f"{part}.{name}"])
        and not name.endswith("num_batches_tracked")
    }


def test_it_begins_with_the_weights_and_a_killed_one_goes_on_without_its_source(
    source: Ran, tmp_path: Path
) -> None:
    options = ("epochs=12", "checkpoint.every_epochs=1", "start.statistics_samples=48")
    calm = tuned(source, tmp_path / "calm", *options)
    fresh_loss, first_loss = (run.lines("train")[0]["loss"] for run in (source, calm))
    assert first_loss < fresh_loss / 3, (fresh_loss, first_loss)
    assert calm.lines("evaluate")[-1]["top1"] >= source.lines("evaluate")[-1]["top1"] - 0.05
    assert "global_pool.p" in "".join(calm.tensors())

    # A fine-tuning that was killed needs its own checkpoint alone.
    other = tmp_path / "data-of-the-other"
    other.mkdir()
    (other / "data").symlink_to(source.folder.parent / "data")
    copy = Ran(Path(shutil.copytree(source.folder, other / "source")))
    killed = Ran(tmp_path / "killed")
    process = tuning(copy, killed.folder, *options)
    until = time.monotonic() + LIMIT_S
    while len(killed.manifests()) < 2 and time.monotonic() < until:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    shutil.rmtree(copy.folder)
    finished(tuning(copy, killed.folder, *options), killed.folder)
    starts = killed.lines("start")
    assert [line["generation"] for line in starts] == [1, 2]
    assert 0 < starts[1]["parent_update"] < calm.lines("end")[-1]["update"]
    expected, found = calm.tensors(), killed.tensors()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_frozen_stages_stay_bit_for_bit(source: Ran, tmp_path: Path) -> None:
    run = tuned(source, tmp_path / "run", "epochs=2", "start.frozen_stages=2")
    for part in ("model", "ema"):
        changed = moved(source, run, part)
        stages = {name.partition(".")[0] for name in changed}
        assert stages == {"layer3", "layer4", "fc"}, "neither weights nor running statistics"
        assert {"layer3.0.bn1.running_mean", "layer3.0.conv1.weight", "fc.bias"} <= changed


@pytest.mark.parametrize(
    ("learning", "expected"), [("head", {"fc.weight", "fc.bias"}), ("pool", set())]
)
def test_what_does_not_learn_stays_bit_for_bit(
    source: Ran, tmp_path: Path, learning: str, expected: set[str]
) -> None:
    run = tuned(source, tmp_path / "run", "epochs=2", f"start.train={learning}", "model.pool_p=2")
    for part in ("model", "ema"):
        assert moved(source, run, part) == expected
    p = run.tensors()["model.global_pool.p"]
    assert (p == 2) == (learning == "head"), p


def test_statistics_are_measured_anew_where_that_is_wanted(source: Ran, tmp_path: Path) -> None:
    options = ("epochs=1", "start.train=pool", f"start.statistics_samples={2 * BATCH}")
    run = tuned(source, tmp_path / "run", *options)
    assert "running statistics measured anew over 2 batches of each rank" in run.said
    for part in ("model", "ema"):
        changed = moved(source, run, part)
        assert {"bn1.running_mean", "layer4.1.bn2.running_var"} <= changed
        assert {name.rpartition(".")[2] for name in changed} == {"running_mean", "running_var"}
    before, after = source.tensors(), run.tensors()
    for name in ("bn1.running_mean", "layer2.0.bn1.running_mean"):
        shift = (after[f"model.{name}"] - before[f"ema.{name}"]).norm()
        assert shift < before[f"ema.{name}"].norm(), "of the same data, at a size not far"


def test_other_classes_want_a_new_head(source: Ran, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    refused = tuned(source, folder, "epochs=1", "model.num_classes=5", status=2)
    (line,) = errors(refused)
    assert all(part in line for part in ("start.address", "3 classes", "set start.head to new"))
    run = tuned(source, folder, "epochs=1", "model.num_classes=5", "start.head=new")
    assert run.tensors()["model.fc.bias"].shape == (5,)
    assert json.loads(run.manifests()[-1].read_text())["facts"]["num_classes"] == 5


def test_another_network_is_refused_by_its_name(source: Ran, tmp_path: Path) -> None:
    refused = tuned(source, tmp_path / "run", "epochs=1", "model.width=0.25", status=2)
    (line,) = errors(refused)
    assert "holds resnet18 of width 0.125 with a small stem" in line
    assert "model is resnet18 of width 0.25 with a small stem" in line
    assert refused.manifests() == []


def test_runs_are_measured_at_several_sizes(source: Ran, tmp_path: Path) -> None:
    pooled = tuned(source, tmp_path / "pooled", "epochs=1", "model.pool_p=2")
    picture = tmp_path / "sizes.svg"
    sizes = ("--image-size", "24,32,40", "--out", str(picture))
    found = json.loads(
        launcher(str(source.folder), str(pooled.folder), *sizes, "-o", "json").stdout
    )
    assert found["kind"] == "EvaluationList"
    first, second = found["items"]
    assert (first["name"], second["name"]) == ("source", "pooled")
    assert (first["p"], first["trained_at_px"], second["trained_at_px"]) == (None, 32, 40)
    assert 1 <= second["p"] <= 3
    assert [result["size_px"] for result in first["results"]] == [24, 32, 40]
    told = source.lines("evaluate")[-1]
    measured = first["results"][1]
    for key in ("top1", "top5", "class_top1", "class_top5", "num_samples"):
        assert measured[key] == told[key], key
    assert measured["loss"] == pytest.approx(told["loss"], rel=1e-4)
    assert picture.read_text().startswith("<?xml")


def test_a_table_and_the_trainers_own_words(source: Ran, tmp_path: Path) -> None:
    done = launcher(str(source.folder), "--split", "train", "--which", "newest")
    head, row = done.stdout.splitlines()
    assert head.split()[:3] == ["RUN", "SIZE", "TOP-1"]
    assert row.split()[:2] == ["source", "32"]
    assert row.split()[-1] == str(SAMPLES)
    for arguments, word in (
        ([str(tmp_path)], "holds no run"),
        ([str(source.folder), "--split", str(tmp_path)], str(tmp_path)),
    ):
        refused = launcher(*arguments)
        assert refused.returncode == 2, refused.stderr
        *_, own, ours = refused.stderr.splitlines()
        assert own.startswith("error: ")
        assert word in own
        assert ours.endswith("ended with 2; its own words stand above")
        assert refused.stdout == ""


def launcher(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launcher", "evaluate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)


def errors(run: Ran) -> list[str]:
    assert "Traceback" not in run.said
    return [line for line in run.said.splitlines() if line.startswith("error: ")]
