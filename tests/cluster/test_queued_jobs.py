"""Jobs that Kueue admits: the verbs against real Kueue and operator, on nodes that kwok plays."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cli import Cli
from tests.cluster.cluster import Cluster
from tests.cluster.queue import priority_queue

QUOTA = 4
PATIENCE_S = 90.0
GIVEN = (
    *("--model", "resnet18", "--gpus-per-worker", "1", "--image", "registry.example/trainer:1"),
    *("--data", "s3://webvision/train", "--checkpoints", "s3://webvision/runs"),
)


@pytest.fixture
def cli(
    queued: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Cli]:
    """A namespace with a queue of its own name that admits QUOTA GPUs, by priority."""
    name = f"queue-{uuid.uuid4().hex[:8]}"
    queued.plane.kubectl("create", "namespace", name)
    queued.plane.apply(*priority_queue(name, name, QUOTA))
    yield Cli(queued.plane, name, tmp_path, capsys, monkeypatch)
    queued.plane.kubectl("delete", "namespace", name, "--wait=false")
    queued.plane.kubectl("delete", "clusterqueue", name, "--wait=false")


def submit(cli: Cli, name: str, gpus: int, *options: str) -> None:
    given = (*GIVEN, "--queue", cli.namespace, "--gpus", str(gpus), "--name", name)
    cli.out("submit", *given, *options)


def eventually(cli: Cli, name: str, state: str) -> dict[str, Any]:
    return until(lambda: cli.status(name), lambda found: found["state"] == state)


def until(look: Callable[[], Any], met: Callable[[Any], bool]) -> Any:
    ends_at = time.monotonic() + PATIENCE_S
    while not met(found := look()):
        assert time.monotonic() < ends_at, found
        time.sleep(0.3)
    return found


def test_a_job_waits_for_its_quota_and_says_so(cli: Cli) -> None:
    submit(cli, "first", 3)
    eventually(cli, "first", "Running")
    submit(cli, "second", 2)
    found = until(
        lambda: cli.status("second"),
        lambda each: each["reason"].startswith("the queue has no room"),
    )
    assert found["state"] == "Queued"
    assert "nvidia.com/gpu" in found["reason"]
    assert found["queue"] == cli.namespace
    cli.out("cancel", "first", "--yes")
    eventually(cli, "second", "Running")
    assert cli.state("first") == "Cancelled"
    cli.out("resume", "first")
    eventually(cli, "first", "Queued")


def test_suspending_goes_by_the_workload_never_by_the_job(cli: Cli) -> None:
    submit(cli, "first", 2)
    eventually(cli, "first", "Running")
    cli.out("suspend", "first")
    assert cli.state("first") == "Suspended"
    (workload,) = json.loads(cli.kubectl("get", "workloads", "-o", "json"))["items"]
    assert workload["spec"]["active"] is False
    time.sleep(2)
    assert cli.state("first") == "Suspended"  # Kueue does not let it go again
    cli.out("resume", "first")
    eventually(cli, "first", "Running")


def test_a_job_is_admitted_with_all_its_workers_or_not_at_all(cli: Cli) -> None:
    submit(cli, "large", QUOTA + 2, "--min-gpus", "1")
    eventually(cli, "large", "Queued")
    time.sleep(2)
    assert cli.names("pods") == [
        name for name in cli.names("pods") if name.startswith("large-rendezvous")
    ]  # it could begin with one worker, but Kueue admits it whole
    cli.out("delete", "large", "--yes", "--force")


def test_scaling_an_admitted_job_is_asked_for_and_queues_it_again(cli: Cli) -> None:
    submit(cli, "first", 2, "--max-gpus", "3")
    eventually(cli, "first", "Running")
    assert "Kueue evicts first" in cli.fails(2, "scale", "first", "--workers", "3")
    cli.out("scale", "first", "--workers", "3", "--yes")
    found = until(
        lambda: cli.status("first"),
        lambda each: each["state"] == "Running" and each["workers_running"] == 3,
    )
    assert found["workers_desired"] == 3


def test_a_higher_priority_takes_the_place_and_gives_it_back(cli: Cli) -> None:
    low, high = (f"job.kueue.priority_class={cli.namespace}-{level}" for level in ("low", "high"))
    submit(cli, "low", 3, low)
    eventually(cli, "low", "Running")
    submit(cli, "high", 3, high)
    eventually(cli, "high", "Running")
    found = eventually(cli, "low", "Queued")
    assert found["workers_running"] == 0
    assert found["reason"].startswith("the queue")
    cli.out("cancel", "high", "--yes")
    eventually(cli, "low", "Running")
