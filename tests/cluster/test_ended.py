"""A test run and a benchmark that are told to end (SIGTERM) leave nothing of their clusters."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import make_cluster
from tests.cluster.sandbox import CGROUPS
from tests.cluster.tools import ROOT, Unavailable
from tests.conftest import absent

RUNS = {
    "tests": ("pytest", "-q", "-p", "no:cacheprovider", f"{ROOT}/tests/cluster/test_node.py"),
    "benchmark": ("tests.benchmarks", "chaos"),
}
READY_S, END_S = 200.0, 100.0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files, by which processes are told: at the end none may carry it."""
    try:
        make_cluster(tmp_path / "probe", with_node=True)
    except Unavailable as error:
        absent(str(error))
    place = tmp_path / "place"
    place.mkdir()
    yield place
    for pid in living(place):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def living(place: Path) -> list[int]:
    """The processes that were started with this folder for temporary files."""
    mark, found = f"TMPDIR={place}".encode(), []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found.append(int(entry))
    return found


@pytest.mark.parametrize(
    ("run", "log"),
    [("tests", "etcd.log"), ("tests", "kubelet.log"), ("benchmark", "kubelet.log")],
)
def test_nothing_outlives_who_has_started_it(place: Path, run: str, log: str) -> None:
    env = os.environ | {
        "TMPDIR": str(place), "XDG_STATE_HOME": str(place / "state"), "PYTHONPATH": str(ROOT)
    }  # fmt: skip
    command = [sys.executable, "-m", *RUNS[run]]
    said = place / "said"
    with open(said, "wb") as out:
        # Elsewhere, since a benchmark whose results lie in docs/results has nothing left to do.
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, cwd=place)
    ends_at = time.monotonic() + READY_S
    while not list(place.rglob(log)):
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < ends_at, said.read_text()
        time.sleep(0.1)
    started = living(place)
    networks = [
        number
        for path in place.rglob("node/Corefile")
        for number in re.findall(r"bind 10\.(\d+)\.", path.read_text())
    ]
    process.terminate()
    assert process.wait(END_S) != 0
    assert len(started) > 1, "it had nothing to end"
    assert living(place) == [], said.read_text()
    assert bool(networks) == (log == "kubelet.log")
    for number in networks:
        name = f"webvision-{number}"
        assert not Path("/sys/class/net", name).exists()
        assert [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")] == []
