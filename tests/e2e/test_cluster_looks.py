"""Looking at a job whose pods really run: logs over losses, stacks, progress, GPUs in use."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.chaos import Watch, calm
from tests.e2e.cluster_runs import ClusterRun, wait_for_workers
from tests.e2e.runs import launcher

PATIENCE_S = 300.0


def until(look: Callable[[], bool], what: Callable[[], str]) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < ends_at, what()
        time.sleep(0.3)


def test_a_running_job_can_be_looked_at_through_losses(
    make_cluster_run: Callable[..., ClusterRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_cluster_run("looks", epochs=400)
    run.submit()
    wait_for_workers(run, 2)
    here = ("-n", run.namespace)
    followed = tmp_path / "followed"
    with followed.open("w") as out:
        command = (sys.executable, "-m", "launcher", "logs", "-f", run.name, *here)
        following = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        until(lambda: run.updates(1) > 0, run.tell)

        # The progress is read from the run's own folder, with this user's credentials.
        for name, value in run.s3.environment().items():
            monkeypatch.setenv(name, value)
        until(lambda: (run.status()["progress"] or {"seen": 0})["seen"] > 0, run.tell)
        progress = run.status()["progress"]
        assert (progress["goal"], progress["world"]) == (400 * 1152, 2)
        assert progress["eta_s"] > 0

        top = json.loads(launcher("top", *here, "-o", "json").stdout)
        (use,) = [job for job in top["jobs"] if job["name"] == run.name]
        assert (use["pods"], use["gpus"], use["waiting"]) == (2, 2, 0)
        assert [(node["gpus"], node["is_ready"]) for node in top["nodes"]] == [(8, True)]
        assert top["nodes"][0]["used"] >= 2

        # The container is killed and started again in its pod: --previous has its words.
        script = "import os, signal; os.kill(1, signal.SIGTERM)"
        run.kubectl("exec", f"{run.name}-worker-1", "--", "python", "-c", script)
        until(lambda: run.status()["workers"][1]["restarts"] == 1, run.tell)
        before = Watch(run).newest()
        previous = launcher("logs", run.name, *here, "--worker", "1", "--previous").stdout
        assert previous.strip()

        # The pod is deleted, and another takes its place.
        run.kubectl("delete", "pod", f"{run.name}-worker-0", "--wait=true")
        wait_for_workers(run, 2)
        after = calm(run, 2)
        assert after > before
        told = f"generation {after} goes on"
        until(lambda: told in followed.read_text(), followed.read_text)

        target = tmp_path / "bundle.tar.gz"
        launcher("bundle", run.name, *here, "--out", str(target))
        with tarfile.open(target) as archive:
            texts = {
                entry.name.partition("/")[2]: archive.extractfile(entry).read().decode()  # type: ignore[union-attr]
                for entry in archive.getmembers()
            }
        assert "missing.txt" not in texts, texts["missing.txt"]
        assert texts["stacks.txt"].count("1 ranks write their stacks") == 2
        for worker in (0, 1):
            assert "most recent call first" in texts[f"logs/worker-{worker}.log"]
        assert "logs/worker-1.previous.log" in texts
        assert "secret-of-tests" not in "".join(texts.values())

        launcher("cancel", run.name, *here, "--yes")
        assert run.status()["state"] == "Cancelled"
        assert following.wait(60) == 0
    finally:
        following.kill()
        following.wait()
    lines = followed.read_text().splitlines()
    assert any(line.startswith("worker-0 | ") for line in lines)
    assert any(line.startswith("worker-1 | ") for line in lines)
    assert "terminated on request" in followed.read_text()
    counted = [line for line in lines if " goes on from update " in line]
    assert len(counted) == len(set(counted)), "a line was followed twice"
