"""What tests of jobs of independent parts share: their pods here, the loss of one, the account."""

from __future__ import annotations

import json
import time
from pathlib import Path

import yaml

from launcher.spec import JOB_LABEL
from tests.cluster.controllers import until
from tests.cluster.images import SUITE, with_machine
from tests.cluster.ledgers import CLUSTER
from tests.e2e.cluster_runs import SECRET, ClusterRun
from tests.e2e.runs import launcher
from tests.servers import BUCKET


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


def flags(run: ClusterRun, name: str, indexes: int, budget: str, folder: Path) -> tuple[str, ...]:
    """A job of small pods, two at once, that is counted and writes into the bucket."""
    return (
        "-n", run.namespace, "--name", name, "--image", SUITE,
        "--checkpoints", f"s3://{BUCKET}/{run.namespace}/out", "--indexes", str(indexes),
        "--parallelism", "2", "--gpus", "1", "--cpus", "1", "--memory-gib", "2",
        "--budget", budget, "--patch", str(patch(folder)),
        f"job.s3_secret={SECRET}", "job.shm_per_gpu_gib=1",
    )  # fmt: skip


def gone_and_counted(run: ClusterRun, name: str, stage: str, ledger: object) -> None:
    """Deletes the job, and waits until the ledger has GPU time of its stage."""

    def counted() -> int:
        given = ("--by", "stage", "--ledger", str(ledger), "--cluster", CLUSTER, "-o", "json")
        found = json.loads(launcher("usage", *given).stdout)
        return {each["stage"]: int(each["gpu_ms"]) for each in found["rows"]}.get(stage, 0)

    run.kubectl("delete", "jobs", name, "--timeout=60s")
    until(lambda: counted() > 0, "the stage is in the ledger", 90)
