"""How long a training stands still for each kind of loss on a real cluster: 20 of each.

A round is a job of two workers on a real node, which suffers each kind once and must end Succeeded
with each sample once an epoch. Finished rounds are in docs/results/chaos.json, so that a run that
was broken off goes on; without that file it starts anew. In every other round one worker
may go on alone (1:3), else the job waits for the pod that takes the lost one's place (2:3).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.table import Row, machine
from tests.cluster.cluster import Cluster, running_cluster
from tests.e2e.accounts import SAMPLES, exactly_once
from tests.e2e.chaos import LOSSES, SCALING, Loss, strike
from tests.e2e.cluster_runs import ClusterRun, cluster_options, prepare, write_patch
from tests.e2e.runs import SMALL
from tests.servers import S3Server, s3_server

ROUNDS = 20
EPOCHS = 40
"""Twice what the losses take on two quiet cores, so that no job ends before its last loss."""
RESULTS = Path("docs/results/chaos.json")
LONGEST = "15m"
"""From the last loss to the end, on a machine that is busy with other work too."""
ALONE_TARGET_S, REPLACED_TARGET_S = 10.0, 20.0
Round = dict[str, Any]


def measure() -> list[Row]:
    """Runs what is missing of the rounds, and gives the medians of all."""
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    folder = state / "webvision-suite" / "bench-chaos"
    folder.mkdir(parents=True, exist_ok=True)
    shards = pack(folder / "shards")
    rounds: list[Round] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if len(rounds) < ROUNDS:
        with arena() as (cluster, s3):
            while len(rounds) < ROUNDS:
                rounds.append(play(cluster, s3, shards, len(rounds)))
                write_results(rounds)
    return table(rounds)


def pack(folder: Path) -> Path:
    """The demo's digits, packed once."""
    if not (folder / "selection.npy").exists():
        raw = tempfile.mkdtemp(prefix="raw-")
        subprocess.run([sys.executable, "-m", "examples.demo.data", f"{raw}/data"], check=True)
        for split in ("train", "val"):
            command = [sys.executable, "-m", "trainer.pack", f"{raw}/data", str(folder / split)]
            subprocess.run([*command, "--split", split, "--shard-mib", "1"], check=True)
        np.save(folder / "selection.npy", np.arange(0, 3 * SAMPLES, 3, dtype=np.int64))
    return folder


@contextmanager
def arena() -> Iterator[tuple[Cluster, S3Server]]:
    """A cluster with a node, and an S3 server that its pods reach."""
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as scratch,
        running_cluster(Path(scratch, "cluster"), with_node=True) as cluster,
    ):
        assert cluster.node is not None
        with s3_server(Path(scratch, "s3"), cluster.node.network.host) as s3:
            os.environ["KUBECONFIG"] = str(cluster.plane.kubeconfig)
            yield cluster, s3


def play(cluster: Cluster, s3: S3Server, shards: Path, number: int) -> Round:
    """One job through all losses. Raises AssertionError where it does not outlast one."""
    least = 1 + number % 2
    namespace = f"round-{number}-{os.getpid()}"
    prepare(cluster, s3, namespace, shards)
    with (
        tempfile.TemporaryDirectory(prefix="audit-", ignore_cleanup_errors=True) as scratch,
        deleted(cluster, namespace),
    ):
        audit, patch = Path(scratch, "audit"), Path(scratch, "patch.yaml")
        write_patch(patch, audit)
        options = (*cluster_options(namespace, patch, (least, 2, 3)), *SMALL, f"epochs={EPOCHS}")
        every = ("--model=resnet18", *options)
        run = ClusterRun("storm", Path("/nowhere"), audit, every, cluster, namespace, s3)
        run.submit()
        outcomes = [suffer(run, loss) for loss in (*LOSSES, *SCALING)]
        run.finished(LONGEST)
        assert run.status()["state"] == "Succeeded"
        exactly_once(run, EPOCHS)
    return {"least": least, "machine": machine(), "outcomes": outcomes}


@contextmanager
def deleted(cluster: Cluster, namespace: str) -> Iterator[None]:
    """The namespace and all in it is gone at the end, so that its pods write nothing any more."""
    try:
        yield
    finally:
        cluster.plane.kubectl("delete", "namespace", namespace)


def suffer(run: ClusterRun, loss: Loss) -> dict[str, Any]:
    """What one loss cost, with how busy the machine was: other work on it counts too."""
    load = os.getloadavg()[0]
    outcome = strike(run, loss)
    print(
        f"{time.strftime('%H:%M:%S')} {loss.name:<28} {outcome.pause_s:6.1f} s with"
        f" {outcome.world}, {outcome.whole_s:6.1f} s with all; load {load:.0f}",
        flush=True,
    )
    return {
        "loss": loss.name,
        "pause_s": round(outcome.pause_s, 2),
        "world": outcome.world,
        "whole_s": round(outcome.whole_s, 2),
        "load": round(load, 1),
    }


def write_results(rounds: list[Round]) -> None:
    """A line a round."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(each) for each in rounds)
    RESULTS.write_text(f"[\n{lines}\n]\n")


def table(rounds: list[Round]) -> list[Row]:
    """Median and longest pause of each kind, apart for jobs that may shrink."""
    rows = []
    for loss in (*LOSSES, *SCALING):
        for least in (1, 2):
            pauses = [
                outcome["pause_s"]
                for each in rounds
                for outcome in each["outcomes"]
                if each["least"] == least and outcome["loss"] == loss.name
            ]
            if pauses:
                rows.append(_row(loss, least, pauses))
    return rows


def _row(loss: Loss, least: int, pauses: list[float]) -> Row:
    is_alone = loss.spares and (least == 1 or loss.workers_after == 2 or not loss.breaks)
    target_s = ALONE_TARGET_S if is_alone else REPLACED_TARGET_S
    what = f"{loss.name}, {least}:3, longest of {len(pauses)}: {max(pauses):.1f} s"
    median = statistics.median(pauses)
    return Row(what, "s", "target", target_s, median, f"<= {target_s:.0f} s")
