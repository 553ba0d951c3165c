"""Wrong input, row by row: one line that names what, where and what is allowed; no data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.cli.main import run

GIVEN = ["--image", "i", "--data", "s3://a/d", "--checkpoints", "s3://a/c"]
RENDER = ["render", "--model", "senet154", *GIVEN]
LOCAL = ["render", "--model", "resnet18", "--local", "--data", "d"]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and nobody's settings."""
    for key in list(os.environ):
        if key.startswith(("LAUNCHER_", "XDG_")):
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("run: [")
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "flat.yaml").write_text("model: {name: x}\n")
    (tmp_path / "typo.yaml").write_text("run: {optim: {lrr: 1}}\n")
    (tmp_path / "range.yaml").write_text("run: {optim: {lr: -1}}\n")
    (tmp_path / "jobtypo.yaml").write_text("job: {gpu: 8}\n")
    (tmp_path / "jobtype.yaml").write_text("job: {gpus: many}\n")
    (tmp_path / "jobodd.yaml").write_text("job: {gpus: 12, gpus_per_worker: 8}\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")


ROWS: list[tuple[list[str], int, tuple[str, ...]]] = [
    # models and job files
    (["render", "--model", "senet"], 2, ("'senet'", "did you mean senet154", "resnet18")),
    (["render", "--model", "gone.yaml"], 2, ("gone.yaml", "No such file", "--model")),
    (["render", "--model", "broken.yaml"], 2, ("broken.yaml", "YAML", "line")),
    (["render", "--model", "list.yaml"], 2, ("list.yaml", "job and run")),
    (["render", "--model", "flat.yaml"], 2, ("flat.yaml", "job and run")),
    (["render", "--model", "typo.yaml"], 2, ("typo.yaml", "optim.lrr", "mean: 'lr'")),
    (["render", "--model", "range.yaml"], 2, ("range.yaml", "optim.lr", "-1", "above 0")),
    (["render", "--model", "jobtypo.yaml"], 2, ("jobtypo.yaml", "job.gpu", "mean: 'gpus'")),
    (["render", "--model", "jobtype.yaml"], 2, ("jobtype.yaml", "job.gpus", "'many'")),
    (["render", "--model", "jobodd.yaml"], 2, ("12", "gpus-per-worker 8", "8 or 16")),
    (["render", "--model", "binary.yaml"], 2, ("binary.yaml", "not UTF-8")),
    (["render"], 2, ("--model",)),
    # sizes
    ([*RENDER, "--gpus", "12"], 2, ("--gpus 12", "--gpus-per-worker 8", "8 or 16")),
    ([*RENDER, "--gpus", "64", "--min-gpus", "72"], 2, ("--min-gpus (72)", "--gpus (64)")),
    ([*RENDER, "--gpus", "64", "--max-gpus", "32"], 2, ("--max-gpus (32)", "--gpus (64)")),
    ([*RENDER, "--gpus", "0"], 2, ("--gpus is 0", "at least 1")),
    ([*RENDER, "--gpus", "-8"], 2, ("--gpus is -8", "at least 1")),
    ([*RENDER, "--gpus", "many"], 2, ("--gpus", "'many' is no whole number")),
    ([*RENDER, "--gpus", "64", "--max-gpus", "256"], 2, ("256 ranks", "data.lanes", "192")),
    ([*RENDER, "--workers", "2"], 2, ("--workers needs --local", "--gpus")),
    ([*LOCAL, "--gpus", "8"], 2, ("--gpus goes without --local", "--workers")),
    ([*LOCAL, "--workers", "0"], 2, ("--workers is 0", "at least 1")),
    ([*LOCAL, "--min-workers", "3"], 2, ("--min-workers (3)", "--workers (2)")),
    ([*LOCAL, "--max-workers", "1"], 2, ("--max-workers (1)", "--workers (2)")),
    # names and labels
    ([*RENDER, "--name", "Not_DNS"], 2, ("--name 'Not_DNS'", "lower-case", "50")),
    ([*RENDER, "--name", "1st"], 2, ("--name '1st'", "letter first")),
    ([*RENDER, "--name", "a" * 51], 2, ("--name", "at most 50")),
    ([*RENDER, "--namespace", "a_b"], 2, ("namespace 'a_b'", "lower-case")),
    ([*RENDER, "--budget", "two words"], 2, ("budget 'two words'", "63 letters")),
    ([*RENDER, "--queue", "-x"], 2, ("queue '-x'", "lower-case")),
    ([*RENDER, "--image", "a b"], 2, ("image 'a b'", "space")),
    # overrides
    ([*RENDER, "optim.lr"], 2, ("override 'optim.lr'", "key.name=value")),
    ([*RENDER, "optim.lr=fast"], 2, ("override 'optim.lr=fast'", "optim.lr", "Float")),
    ([*RENDER, "optim.lrr=1"], 2, ("override 'optim.lrr=1'", "mean: 'lr'")),
    ([*RENDER, "job.gpus=0"], 2, ("job.gpus", "override 'job.gpus=0'", "at least 1")),
    ([*RENDER, "job.cpus=1"], 2, ("override 'job.cpus=1'", "job.cpus")),
    ([*RENDER, "name=x"], 2, ("'name=x'", "--name")),
    ([*RENDER, "data.train=s3://b/c"], 2, ("--data", "override data.train")),
    ([*RENDER, "checkpoint.address=s3://b/c"], 2, ("--checkpoints", "checkpoint.address")),
    ([*RENDER, "job.grace_s=200"], 2, ("shutdown_timeout_s (240)", "grace_s (200)")),
    ([*RENDER, "checkpoint.deadline_s=500"], 2, ("deadline_s (500)", "shutdown_timeout_s (240)")),
    ([*RENDER, "job.shm_per_gpu_gib=64"], 2, ("shm_per_gpu_gib (64)", "memory_per_gpu_gib (32)")),
    # addresses
    ([*RENDER, "--val", "gs://b/c"], 2, ("--val 'gs://b/c'", "s3://bucket")),
    ([*RENDER, "--val", "file://c"], 2, ("--val", "file:///data")),
    ([*RENDER, "--val", "s3://"], 2, ("--val", "no bucket")),
    ([*RENDER, "--val", "s3://key:word@b/c"], 2, ("--val", "credentials", "s3_secret")),
    # verbs
    (["render", "--model", "senet154"], 2, ("--image", "LAUNCHER_DATA", "launcher.toml")),
    (["submit", "--model", "senet154"], 2, ("--image", "LAUNCHER_DATA", "launcher.toml")),
    (["submit", "--model", "resnet18", "--local"], 2, ("data is not set", "--data")),
    (["submit", "--model", "senet154", *GIVEN], 2, ("no usable kubeconfig", "KUBECONFIG")),
    (["submit", "--model", "senet154", *GIVEN, "--dry-run=server"], 2, ("--local",)),
    (["submit", "--model", "resnet18", "--local", "--dry-run=server"], 2, ("--local", "cluster")),
    (["submit", "--model", "resnet18", "--local", "--context", "a"], 2, ("--context", "--local")),
    (["status", "--local", "-n", "ml", "x"], 2, ("--local", "--namespace")),
    (["list", "--context", "nowhere"], 2, ("no usable kubeconfig",)),
    (["top"], 2, ("no usable kubeconfig",)),
    (["top", "--local"], 2, ("top", "--local")),
    (["diff", "--model", "resnet18", "--local"], 2, ("--local",)),
    (["diff", "--model", "senet154", *GIVEN], 2, ("no usable kubeconfig",)),
    (["bundle", "x", "--out", "x.zip", "-n", "ml"], 2, ("no usable kubeconfig",)),
    (["logs", "x", "-f", "--previous"], 2, ("--previous", "--follow")),
    (["prune", "--older-than", "soon"], 2, ("--older-than", "soon", "7d")),
    (["suspend", "x"], 3, ("x", "no run")),
    (["resume", "x"], 3, ("x", "no run")),
    (["submit", "--model", "senet154", "--dry-run=yes"], 2, ("--dry-run", "yes")),
    (["submit", "--model", "senet154", "--timeout", "3m"], 2, ("--timeout 3m", "--wait")),
    (["submit", "--model", "x", "--wait", "--timeout", "3"], 2, ("'x'", "no packaged recipe")),
    (["wait", "a", "--timeout", "soon"], 2, ("--timeout 'soon'", "30m")),
    (["--request-timeout", "soon", "list"], 2, ("--request-timeout 'soon'", "30m")),
    (["status", "nobody"], 3, ("nobody",)),
    (["logs", "nobody"], 3, ("nobody",)),
    (["wait", "nobody"], 3, ("nobody",)),
    (["cancel", "nobody", "--yes"], 3, ("nobody",)),
    (["scale", "nobody", "--workers", "2"], 3, ("nobody",)),
    (["scale", "nobody", "--workers", "0"], 2, ("--workers is 0", "cancel")),
    (["delete", "nobody", "--yes"], 3, ("nobody",)),
    (["plot", "nobody"], 3, ("nobody",)),
    (["plot", "./a", "--out", "x.gif"], 2, ("--out 'x.gif'", ".svg")),
    (["config", "get", "imag"], 2, ("'imag'", "mean image")),
    (["config", "set", "secret", "x"], 2, ("'secret'",)),
    (["statsu", "x"], 2, ("statsu", "launcher --help")),
    (["submit", "--gpsu", "3"], 2, ("--gpsu", "--gpus", "launcher submit --help")),
    (["completion", "csh"], 2, ("csh", "bash")),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "said"), ROWS, ids=[" ".join(r[0]) for r in ROWS])
def test_wrong_input_is_one_line_and_its_code(
    arguments: list[str], code: int, said: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith(("warning: ", "note: "))]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert all(part in lines[0] for part in said), lines[0]
    assert "key:word" not in err


def test_a_wrong_settings_file_is_named_by_every_verb_that_reads_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "launcher.toml").write_text('[launcher]\nimagee = "x"\n')
    for arguments in (RENDER, ["config", "view"], ["config", "get", "image"]):
        assert run(arguments) == 2
        assert "launcher.toml" in (err := capfd.readouterr().err)
        assert "did you mean image" in err
    assert run(["doctor"]) == 1
    assert "imagee" in capfd.readouterr().out
