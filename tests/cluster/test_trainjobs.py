"""Jobs of the second backend, TrainJob v2, against its real CRDs; its controller is played."""

from __future__ import annotations

import gzip
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cli import Cli
from tests.cluster.control_plane import ControlPlane

CRDS = Path(__file__).parents[2] / "k8s/base/crds"
NAME = "fixed"
GIVEN = (
    *("--backend", "trainjob", "--model", "senet154", "--gpus", "16", "--name", NAME),
    *("--image", "registry.example/trainer:1", "--data", "s3://webvision/train"),
    *("--checkpoints", "s3://webvision/runs"),
)


@pytest.fixture(scope="module")
def trainer(plane: ControlPlane) -> None:
    """The CRDs of Trainer v2 are there."""
    for path in sorted(CRDS.glob("trainer.*.yaml.gz")):
        text = gzip.decompress(path.read_bytes()).decode()
        plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=text)
    ends_at = time.monotonic() + 60
    while True:
        try:
            plane.kubectl("get", "trainjobs,trainingruntimes", "-A")
            break
        except subprocess.CalledProcessError:
            assert time.monotonic() < ends_at
            time.sleep(0.2)


@pytest.fixture
def cli(
    trainer: None,
    plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Cli:
    return Cli(plane, namespace, tmp_path, capsys, monkeypatch)


def conclude(cli: Cli, condition: str) -> None:
    """The controller of Trainer v2 says how the job stands."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    told: dict[str, Any] = {
        "type": condition, "status": "True", "reason": "Played", "message": "played",
        "lastTransitionTime": now,
    }  # fmt: skip
    change = json.dumps({"status": {"conditions": [told]}})
    cli.kubectl("patch", "trainjob", NAME, "--subresource=status", "--type=merge", "-p", change)


def test_a_trainjob_owns_its_runtime_and_is_let_go(cli: Cli) -> None:
    assert cli.out("submit", *GIVEN) == f"{NAME}\n"
    job, runtime = cli.get("trainjob", NAME), cli.get("trainingruntime", NAME)
    assert job["spec"]["suspend"] is False
    assert runtime["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert cli.fails(5, "submit", *GIVEN).startswith(f"error: job '{NAME}' exists")
    (listed,) = json.loads(cli.out("list", "-o", "json"))["items"]
    assert (listed["name"], listed["workers_desired"], listed["workers_most"]) == (NAME, 2, 2)
    assert "size is fixed" in cli.fails(2, "scale", NAME, "--workers", "1")


def test_its_conditions_are_told_in_the_same_words(cli: Cli) -> None:
    cli.out("submit", *GIVEN)
    cli.out("cancel", NAME, "--yes")
    assert cli.get("trainjob", NAME)["spec"]["suspend"] is True
    assert cli.state(NAME) == "Cancelled"
    cli.out("resume", NAME)
    conclude(cli, "Complete")
    assert cli.state(NAME) == "Succeeded"
    assert cli.out("wait", NAME) == ""
    conclude(cli, "Failed")
    assert cli.state(NAME) == "Failed"
    cli.out("delete", NAME, "--yes")
    assert cli.names("trainjob") == []
