"""Label noise found on real runs: planted wrong labels, judged in and out of fold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from launcher.cli.main import app
from tests.integration.test_finetune import coloured, finished, start
from tests.raws import write_dataset
from trainer.config import ConfigError
from trainer.data.selection import load_weights

SAMPLES = 96
WRONG = np.arange(0, SAMPLES, 5)
"""Ids whose label is not the colour of the picture: a fifth."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a run that has recorded margins."""
    made = tmp_path_factory.mktemp("noise")
    shown = [number + 1 if number in WRONG else number for number in range(SAMPLES)]
    write_dataset(str(made / "data"), [coloured(number) for number in shown])
    run = start("trainer.train", made / "run", made / "data", ["epochs=12", "log.margins=true"])
    finished(run, made / "run")
    return made


def launched(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["noise", *arguments])
    return result.exit_code, result.output


def test_planted_noise_is_found_shown_and_usable_as_weights(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = folder / "report.html"
    status, said = launched(f"{folder}/run", "--out", str(out), "--pictures", "10")
    assert status == 0, said + capfd.readouterr().err
    assert re.search(r"NOISE +SUSPECTS +WEIGHTS", said)
    summary = json.loads((folder / "report.json").read_text())
    assert summary["noise_rate"] == pytest.approx(len(WRONG) / SAMPLES, abs=0.1)
    weights, _ = load_weights(str(folder / "report.weights.npy"), SAMPLES)
    assert weights is not None
    suspects = np.flatnonzero(weights < 1)
    assert len(set(suspects) & set(WRONG)) >= 0.8 * len(WRONG)
    assert np.isin(suspects, WRONG).mean() >= 0.8
    page = out.read_text()
    assert page.count("<figure><img alt='sample ") == 10
    assert page.count("mean margin -") >= 8
    assert "picture 0" in page or "picture 5" in page
    assert "<script" not in page


def test_a_next_run_takes_the_weights(folder: Path) -> None:
    if not (folder / "report.weights.npy").exists():
        launched(f"{folder}/run", "--out", f"{folder}/report.html")
    options = ["epochs=0.5", f"data.weights={folder}/report.weights.npy"]
    weighted = finished(
        start("trainer.train", folder / "next", folder / "data", options), folder / "next"
    )
    assert weighted.lines("train")


def test_runs_of_folds_judge_what_they_have_not_seen(folder: Path) -> None:
    command = [sys.executable, "-m", "trainer.noise", "--folds", "2", "--of", f"{folder}/data"]
    subprocess.run([*command, "--out", f"{folder}/folds"], check=True, capture_output=True)
    parts = [np.load(folder / "folds" / f"fold-{number}.npy") for number in range(2)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(SAMPLES))
    runs = []
    for number in range(2):
        run = folder / f"run-{number}"
        chosen = f"data.selection={folder}/folds/fold-{number}.npy"
        finished(start("trainer.train", run, folder / "data", ["epochs=16", chosen]), run)
        runs.append(str(run))
    status, said = launched(*runs, "--out", f"{folder}/folds.html", "-o", "json")
    assert status == 0, said
    assert json.loads(said)["noise_rate"] == pytest.approx(len(WRONG) / SAMPLES, abs=0.12)
    weights = np.load(folder / "folds.weights.npy")
    suspects = np.flatnonzero(weights < 1)
    assert len(set(suspects) & set(WRONG)) >= 0.8 * len(WRONG)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--out", "report.txt"], "must end in .html"),
        (["{run}-none", "--out", "report.html"], "holds no run (no run.yaml)"),
    ],
)
def test_what_cannot_be_judged_is_one_line(
    folder: Path, arguments: list[str], message: str
) -> None:
    words = [word.format(run=folder / "run") for word in arguments]
    command = [sys.executable, "-m", "launcher", "noise", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_of_another_dataset_are_refused(folder: Path) -> None:
    np.save(folder / "short.npy", np.ones(3, np.float32))
    with pytest.raises(ConfigError, match=r"it must hold float32 of shape \(96,\)"):
        load_weights(str(folder / "short.npy"), SAMPLES)
