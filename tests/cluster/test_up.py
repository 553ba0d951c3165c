"""The cluster for people: up, up again, down, down again, and down after parts have died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import make_cluster
from tests.cluster.parts import living
from tests.cluster.tools import Unavailable, kubectl
from tests.conftest import absent


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a cluster that is down before and after."""
    try:
        make_cluster(tmp_path / "probe", with_node=True)
    except Unavailable as error:
        absent(str(error))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path / "webvision-suite/cluster"
    call("down")


def call(module: str, *flags: str) -> str:
    command = [sys.executable, "-m", f"tests.cluster.{module}", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_up_and_down_may_be_said_twice(state: Path) -> None:
    assert call("down") == "no cluster is up\n"
    first = call("up", "--node")
    pids = living(state)
    second = call("up")
    assert first.startswith("the cluster is up;")
    assert second.startswith("the cluster is up already;")
    assert living(state) == pids
    config = first.split("export KUBECONFIG=")[1].split()[0]
    flags = [f"--kubeconfig={config}", f"--cache-dir={state}/kubectl"]
    nodes = subprocess.run(
        [str(kubectl()), *flags, "get", "nodes"], capture_output=True, text=True, check=True
    )
    assert " Ready " in nodes.stdout
    assert call("down") == "the cluster is down\n"
    assert living(state) == []
    assert not state.exists()
    assert call("down") == "no cluster is up\n"


def test_down_ends_what_is_left_and_nothing_else(state: Path) -> None:
    call("up", "--node")
    bystander = subprocess.Popen(["sleep", "600"], env=os.environ | {"WEBVISION_CLUSTER": "other"})
    try:
        for pid in living(state)[::2]:
            os.kill(pid, signal.SIGKILL)
        call("down")
        assert living(state) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_up_clears_what_a_machine_that_was_switched_off_has_left(state: Path) -> None:
    state.mkdir(parents=True)
    (state / "cluster.json").write_text('{"network": 99}')
    (state / "etcd").mkdir()
    (state / "etcd/old").write_text("of before")
    assert call("up").startswith("the cluster is up;")
    assert not (state / "etcd/old").exists()
