"""`launcher plan` and `launcher calibrate` as they are typed: output, pictures, refusals."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli.main import run
from launcher.plan import Limits, Question, make_plan, packaged_networks, read_hardware
from launcher.plan.gantt import draw

TITAN = ["plan", "--gpu-type", "TITAN Xp", "--gpus", "64"]
CLUSTER = ["--image", "i", "--data", "s3://a/d", "--checkpoints", "s3://a/c"]
Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and nobody's settings."""
    for key in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(key, str(tmp_path))
    monkeypatch.chdir(tmp_path)


def document(capfd: Said, *more: str) -> dict[str, Any]:
    assert run([*TITAN, *more, "-o", "json"]) == 0
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def test_every_network_is_listed_with_its_days_and_its_error(capfd: Said) -> None:
    found = document(capfd, "--images", "16000000", "--epochs", "150")
    assert [row["model"] for row in found["networks"]] == list(packaged_networks())
    for row in found["networks"]:
        assert row["days"] == pytest.approx(row["gpu_days"] / 64)
        assert 0 < row["error_ratio"] < 0.2
        assert [each["level"] for each in row["estimates"]] == ["table", "formula"]


def test_yaml_says_the_same_as_json(capfd: Said) -> None:
    found = document(capfd, "--network-days", "12")
    assert run([*TITAN, "--network-days", "12", "-o", "yaml"]) == 0
    assert yaml.safe_load(capfd.readouterr().out) == found


def test_a_table_is_data_and_its_reasons_are_talk(capfd: Said) -> None:
    assert run([*TITAN, "--network-days", "12", "--networks-most", "1"]) == 0
    out, err = capfd.readouterr()
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert lines["MODEL"][-1] == "CHOSEN"
    assert {name for name, cells in lines.items() if cells[-1] == "yes"} == {"resnext152d_32x4d"}
    assert "pnasnet5large: 4,157 GPU-days, 64.9 days on 64 GPUs; over the limit of 12 days" in err
    assert "1 of 7 networks one after another on 64 GPUs: 687 GPU-days, 10.7 days" in err
    assert run([*TITAN, "--network-days", "12", "--networks-most", "1", "-o", "name"]) == 0
    assert capfd.readouterr().out == "resnext152d_32x4d\n"


def test_where_nothing_fits_it_says_so(capfd: Said) -> None:
    assert run([*TITAN, "--budget-gpu-days", "1"]) == 0
    out, err = capfd.readouterr()
    assert "yes" not in out
    assert "no network fits these limits" in err


@pytest.mark.parametrize(
    "more",
    [
        ("--network-days", "12"),
        ("--deadline", "40", "--schedule", "parallel", "--epochs", "60,100", "--sizes", "224,288"),
    ],
)
def test_the_printed_commands_are_understood_and_mean_the_plan(
    capfd: Said, more: tuple[str, ...]
) -> None:
    planned = document(capfd, *more)["plan"]["runs"]
    assert run([*TITAN, *more, "--commands"]) == 0
    out, _ = capfd.readouterr()
    lines = [shlex.split(line) for line in out.splitlines()]
    assert len(lines) == len(planned) >= 2
    for words, wanted in zip(lines, planned, strict=True):
        assert words[0] == "launcher"
        assert run([*words[1:], "--dry-run=client", *CLUSTER]) == 0
        job = list(yaml.safe_load_all(capfd.readouterr().out))[2]
        worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
        assert worker["replicas"] * int(job["spec"]["nprocPerNode"]) == wanted["gpus"]
        variables = worker["template"]["spec"]["containers"][0]["env"]
        [text] = (each["value"] for each in variables if each["name"] == "RUN_CONFIG")
        config = yaml.safe_load(text)
        assert config["model"]["name"] == wanted["model"]
        assert config["epochs"] == wanted["epochs"]
        assert config["input"]["size_px"] == wanted["size_px"]


def test_a_network_of_ones_own_is_planned_and_borrows_a_recipe(tmp_path: Path, capfd: Said) -> None:
    entry = {"family": "resnet", "size_px": 224, "gmac": 4.1, "mact": 11.1, "top1": 80.4}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"resnet50": entry, "vgg11": {
        "size_px": 224, "gmac": 7.6, "mact": 7.4}}))  # fmt: skip
    arguments = [*TITAN, "--networks", "mine.yaml", "--models", "resnet50,vgg11"]
    assert run([*arguments, "--commands"]) == 0
    [line] = capfd.readouterr().out.splitlines()
    assert "model.name=resnet50" in line
    assert run([*shlex.split(line)[1:], "--dry-run=client", *CLUSTER]) == 0
    assert "name: resnet50" in capfd.readouterr().out
    assert run(arguments) == 0
    assert "vgg11" in (err := capfd.readouterr().err)
    assert "its accuracy is not known; give top1 in --networks" in err


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture_of_the_schedule_is_drawn(
    tmp_path: Path, capfd: Said, suffix: str, magic: bytes
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / f"plan{suffix}"
    assert run([*TITAN, "--network-days", "12", "--deadline", "60", "--gantt", str(out)]) == 0
    assert out.read_bytes().startswith(magic)
    assert f"drawn into {out}" in capfd.readouterr().err
    few = tmp_path / f"few{suffix}"
    assert run([*TITAN, "--budget-gpu-days", "1", "--gantt", str(few)]) == 0
    assert len(few.read_bytes()) < len(out.read_bytes()), "fewer bars"


def test_the_picture_reaches_as_far_as_the_deadline() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    question = Question("TITAN Xp", Limits(64, deadline_days=500), packaged_networks())
    plan = make_plan(question, read_hardware())
    draw(figure, plan)
    [panel] = figure.axes
    assert len(panel.patches) == len(plan.slots) == 7
    assert panel.get_xlim()[0] == 0
    assert panel.get_xlim()[1] >= 500


def test_measurements_count_before_the_table(tmp_path: Path, capfd: Said) -> None:
    facts = {"model": "dpn98", "gpu_type": "NVIDIA TITAN Xp", "precision": "fp32", "size_px": 224}
    entry = facts | {"seconds_per_image": 0.0275, "spread_ratio": 0.01}
    (tmp_path / "c.json").write_text(json.dumps({"schemaVersion": 1, "measurements": [entry]}))
    for source in ("c.json", f"file://{tmp_path}/c.json"):
        found = document(capfd, "--measured", source)
        [row] = (each for each in found["networks"] if each["model"] == "dpn98")
        assert (row["level"], row["error_ratio"]) == ("measured", 0.03)
        assert row["gpu_days"] == pytest.approx(0.0275 * 150 * 16e6 / 86400)
    assert run([*TITAN, "--measured", f"file://{tmp_path}/d.json"]) == 3
    assert "there is no file://" in capfd.readouterr().err


def test_a_deadline_may_be_a_date(capfd: Said) -> None:
    days = document(capfd, "--deadline", "2999-01-01")["limits"]["deadline_days"]
    assert days > 300_000


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gpu-type", "TITAN Z"], "--gpu-type 'TITAN Z' is unknown; known are TITAN Xp"),
        (["--gpus", "0"], "--gpus is 0, but a whole number from 1 is allowed"),
        (["--gpus", "x"], "'x' is no whole number"),
        (["--images", "-1"], "--images is -1"),
        (["--epochs", "150,x"], "--epochs 'x' is no number above 0"),
        (["--epochs", ","], "--epochs ',' holds no number"),
        (["--sizes", "12"], "--sizes is 12, but a whole number from 32"),
        (["--models", "dpn99"], "--models 'dpn99' is unknown; did you mean dpn98?"),
        (["--networks", "no.yaml"], "--networks no.yaml cannot be read: No such file"),
        (["--measured", "no.json"], "--measured no.json cannot be read: No such file"),
        (["--precision", "fp8"], "--precision 'fp8' is unknown; allowed are fp32, amp"),
        (["--level", "best"], "--level 'best' is unknown; allowed are measured, table, formula"),
        (["--share", "tea=1"], "--share 'tea' is unknown; allowed are input"),
        (["--share", "input=much"], "--share input=much must look like input=0.02"),
        (["--network-days", "-2"], "--network-days is -2, but a number above 0"),
        (["--budget-gpu-days", "nan"], "--budget-gpu-days is nan, but a number above 0"),
        (["--deadline", "soon"], "--deadline 'soon' is neither a number of days nor a date"),
        (["--deadline", "2019-06-01"], "--deadline 2019-06-01 is over"),
        (["--deadline", "0"], "--deadline is 0 days"),
        (["--networks-most", "0"], "--networks-most is 0"),
        (["--schedule", "random"], "--schedule 'random' is unknown"),
        (["--gantt", "plan.gif"], "--gantt 'plan.gif' must end in .png or .svg"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_code_2(
    capfd: Said, more: list[str], message: str
) -> None:
    assert run([*TITAN, *more]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


# -- calibrate


def test_a_calibration_is_a_job_of_one_gpu_with_another_program(capfd: Said) -> None:
    arguments = ["calibrate", "--model", "dpn98", "--steps", "40", "--dry-run=client"]
    assert run([*arguments, "--image", "i", "--checkpoints", "s3://a/c"]) == 0
    out, err = capfd.readouterr()
    job = list(yaml.safe_load_all(out))[2]
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    [container] = worker["template"]["spec"]["containers"]
    assert worker["replicas"] == 1
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["args"] == ["-m", "trainer.calibrate", "--steps", "40"]
    assert container["command"] == ["python", "-m", "trainer.agent"]
    assert job["metadata"]["labels"]["launcher.dev/stage"] == "calibrate"
    assert "warning" not in err


def test_a_calibration_has_not_the_name_of_the_training(capfd: Said) -> None:
    names = []
    for words in (
        ["calibrate", "--dry-run=client"],
        ["submit", "--dry-run=client", "--gpus", "1", "--gpus-per-worker", "1"],
    ):
        assert run([*words, "--model", "dpn98"]) == 0
        names.append(list(yaml.safe_load_all(capfd.readouterr().out))[2]["metadata"]["name"])
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "5"], "--steps is 5, but 20 to 500 are allowed"),
        (["--out", "x.json"], "--out goes with --local"),
        (["--local", "--dry-run=client"], "--dry-run and --context mean a cluster"),
        (["--local", "--out", "broken.json"], "broken.json has no measurements"),
    ],
)
def test_a_calibration_that_cannot_be_meant_is_one_line(
    tmp_path: Path, capfd: Said, more: list[str], message: str
) -> None:
    (tmp_path / "broken.json").write_text("{}")
    assert run(["calibrate", "--model", "resnet18", *more]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
