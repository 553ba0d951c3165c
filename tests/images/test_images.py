"""The images, built by a real engine and run as a restricted pod runs them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import absent
from tests.images.build import LAUNCHER, TRAINER_CPU, Image, version
from tests.images.conftest import Builder
from tests.images.engine import CGROUPS, Engine, Unavailable, engine, program
from tests.images.linter import hadolint
from tests.unit.trainer.shards import write_shards

ROOT = Path(__file__).resolve().parents[2]
POD = (
    "--read-only",
    "--cap-drop=ALL",
    "--user=10001",
    "--security-opt=no-new-privileges",
    "--tmpfs=/scratch",
)
"""A pod of level restricted with a read-only root and one emptyDir."""
BOTH = pytest.mark.parametrize("image", [LAUNCHER, TRAINER_CPU], ids=lambda image: image.name)

GIVEN = (
    f"--image=registry.example/trainer@sha256:{'0' * 64}",
    "--data=s3://webvision/train",
    "--val=s3://webvision/val",
    "--checkpoints=s3://webvision/runs",
)
PROBE = """
import json, os, pathlib
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
refused = []
for place in ("/", "/opt/suite", "/usr/bin", "/tmp"):
    try:
        pathlib.Path(place, "probe").write_text("")
    except OSError:
        refused.append(place)
pathlib.Path("/scratch/probe").write_text("")
print(json.dumps({
    "user": os.getuid(),
    "group": os.getgid(),
    "capabilities": int(status["CapEff"], 16),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "refused": refused,
    "secrets": os.path.exists("/run/secrets"),
}))
"""

UNCOMPILED = """
import os, sys, MODULES
print([m.__file__ for m in list(sys.modules.values())
       if isinstance(getattr(m, "__cached__", None), str) and (m.__file__ or "").endswith(".py")
       and not os.path.exists(m.__cached__)])
"""


@BOTH
def test_it_runs_as_nobody_special_and_writes_scratch_only(
    image: Image, built: Builder, running: Engine
) -> None:
    flags = (*POD, "--entrypoint=python")
    answer = json.loads(running.run(built(image), "-c", PROBE, flags=flags).stdout)
    assert answer == {
        "user": 10001,
        "group": 10001,
        "capabilities": 0,
        "no_new_privileges": 1,
        "refused": ["/", "/opt/suite", "/usr/bin", "/tmp"],
        "secrets": False,
    }


@BOTH
def test_its_configuration_is_what_kubernetes_asks_for(
    image: Image, built: Builder, running: Engine
) -> None:
    config = json.loads(running.docker("image", "inspect", built(image)).stdout)[0]["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"][0] in ("launcher", "python")
    assert config.get("Healthcheck") is None
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == version()
    assert labels["org.opencontainers.image.title"] == image.name
    assert len(labels["org.opencontainers.image.revision"]) == 40
    assert not [entry for entry in config["Env"] if entry.startswith(("NVIDIA_VISIBLE", "NCCL_"))]


@pytest.mark.parametrize(
    ("image", "modules"),
    [
        (LAUNCHER, "launcher.cli, kubernetes.client, boto3"),
        (TRAINER_CPU, "trainer.train, timm, torchvision"),
    ],
    ids=["launcher", "trainer"],
)
def test_nothing_has_to_be_compiled_at_each_start(
    image: Image, modules: str, built: Builder, running: Engine
) -> None:
    code = UNCOMPILED.replace("MODULES", modules)
    answer = running.run(built(image), "-c", code, flags=(*POD, "--entrypoint=python"))
    assert answer.stdout.strip() == "[]"


def test_the_launcher_helps_tells_its_version_and_renders(built: Builder, running: Engine) -> None:
    tag = built(LAUNCHER)
    assert "submit" in running.run(tag, "--help", flags=POD).stdout
    assert running.run(tag, "version", flags=POD).stdout.strip() == version()
    text = running.run(tag, "render", "--model=senet154", "--name=a", *GIVEN, flags=POD).stdout
    kinds = [thing["kind"] for thing in yaml.safe_load_all(text)]
    assert kinds == ["Job", "Service", "PyTorchJob"]


def test_the_launcher_has_no_torch(built: Builder, running: Engine) -> None:
    flags = (*POD, "--entrypoint=python")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        running.run(built(LAUNCHER), "-c", "import torch", flags=flags)
    assert "No module named 'torch'" in caught.value.stderr


@pytest.mark.parametrize("command", [("python", "-m"), ("torchrun", "--nproc-per-node=2", "-m")])
def test_the_trainer_trains(
    command: tuple[str, ...], built: Builder, running: Engine, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    write_shards(tmp_path / "data", count=32)
    run = tmp_path / "data" / "run.yaml"
    run.write_text(
        "epochs: 1\n"
        "model: {name: resnet18}\n"
        "input: {size_px: 64}\n"
        "data: {train: /data, cache_dir: /scratch/cache}\n"
        "update: {global_batch: 16, micro_batch: 8}\n"
        "checkpoint: {address: /scratch/runs/tiny}\n"
    )
    # A pod's agents advertise its address; without a network there is only this one.
    given = [f"--env=RUN_CONFIG={run.read_text()}", "--env=PET_LOCAL_ADDR=127.0.0.1"]
    flags = (
        *POD,
        f"--volume={tmp_path}/data:/data:ro",
        "--shm-size=256m",
        "--hostname=localhost",
        *given,
    )
    answer = running.run(
        built(TRAINER_CPU),
        *(*command[1:], "trainer.train"),
        flags=(*flags, f"--entrypoint={command[0]}"),
    )
    assert "done: 32 samples in 2 updates" in answer.stderr


@BOTH
def test_hadolint_finds_nothing(image: Image) -> None:
    try:
        linter = hadolint()
    except Unavailable as error:
        absent(str(error))
    done = subprocess.run(
        [str(linter), "--no-color", str(ROOT / image.file)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_containerd_imports_what_is_saved(built: Builder, running: Engine, tmp_path: Path) -> None:
    running.save(built(LAUNCHER), tmp_path / "image.tar")
    ctr = [program("ctr"), f"--address={running.run_folder}/containerd.sock", "--namespace=k8s.io"]
    subprocess.run([*ctr, "images", "import", str(tmp_path / "image.tar")], check=True)
    listed = subprocess.run(
        [*ctr, "images", "list", "--quiet"], check=True, capture_output=True, text=True
    ).stdout
    assert listed.split() == [f"docker.io/library/{LAUNCHER.tag}"]


def test_an_engine_leaves_nothing_behind(tmp_path: Path) -> None:
    try:
        with engine(tmp_path / "engine") as running:
            processes = list(running.daemons.values())
            folder, group = running.run_folder, running.group
    except Unavailable as error:
        absent(str(error))
    assert [process.poll() is None for process in processes] == [False, False]
    assert not folder.exists()
    assert not (tmp_path / "engine").exists()
    assert list(CGROUPS.glob(f"**/{group}")) == []
    mounted = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert str(tmp_path) not in mounted
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _belongs(pid, group)]


def _belongs(pid: str, group: str) -> bool:
    try:
        return group in Path("/proc", pid, "cmdline").read_text(errors="replace")
    except OSError:
        return False
