"""What tests of jobs of independent parts share: their pods on this node, and the loss of one."""

from __future__ import annotations

import time
from pathlib import Path

import yaml

from launcher.spec import JOB_LABEL
from tests.cluster.images import with_machine
from tests.e2e.cluster_runs import ClusterRun


def patch(folder: Path) -> Path:
    """What the pods need on this node only."""
    pod = with_machine({"containers": [{"name": "program"}]})
    pod["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    path = folder / "patch.yaml"
    path.write_text(yaml.safe_dump({"kind": "Job", "spec": {"template": {"spec": pod}}}))
    return path


def lose_a_pod(run: ClusterRun, job: str) -> None:
    """Deletes a running pod of the job as a node that is lost would: at once."""
    ends_at = time.monotonic() + 120
    while time.monotonic() < ends_at:
        pods = run.pods(f"{JOB_LABEL}={job}")
        running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
        if running:
            name = running[0]["metadata"]["name"]
            run.kubectl("delete", "pod", name, "--force", "--grace-period=0")
            return
        time.sleep(0.2)
    raise AssertionError(f"no pod ran\n{run.tell()}")
