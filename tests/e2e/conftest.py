"""Packed demo data for the runs, what they run on, and a clean end of each."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.cluster import Cluster, running_cluster, shared_node
from tests.cluster.queue import priority_queue
from tests.cluster.tools import Unavailable
from tests.conftest import absent
from tests.e2e.accounts import SAMPLES
from tests.e2e.cluster_runs import ClusterRun, cluster_options, prepare, write_patch
from tests.e2e.runs import SMALL, Run, launcher
from tests.servers import S3Server, s3_server

QUOTA = 2
"""GPUs of the queue: one job of two workers at a time."""


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train and val, packed, and a selection of SAMPLES ids."""
    folder = tmp_path_factory.mktemp("shards")
    raw = folder / "raw"
    subprocess.run([sys.executable, "-m", "examples.demo.data", str(raw)], check=True)
    for split in ("train", "val"):
        command = [sys.executable, "-m", "trainer.pack", str(raw), str(folder / split)]
        subprocess.run([*command, "--split", split, "--shard-mib", "1"], check=True)
    ids = np.arange(0, 3 * SAMPLES, 3, dtype=np.int64)
    np.save(folder / "selection.npy", ids)
    return folder


@pytest.fixture
def make_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Run]]:
    """Makes runs of a small network; each is cancelled and deleted at the test's end."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made: list[Run] = []

    def make(name: str, *options: str, epochs: int = 5) -> Run:
        run = Run(
            name,
            tmp_path / "checkpoints" / name,
            tmp_path / f"{name}-audit",
            (
                "--model=resnet18",
                f"--data={shards}/train",
                f"--val={shards}/val",
                f"--checkpoints={tmp_path}/checkpoints",
                f"data.selection={shards}/selection.npy",
                f"epochs={epochs}",
                *SMALL,
                f"log.audit_dir={tmp_path}/{name}-audit",
                *options,
            ),
        )
        made.append(run)
        return run

    yield make
    for run in made:
        launcher("cancel", run.name, "--yes", check=False)
        launcher("wait", run.name, "--timeout", "60s", check=False)
        launcher("delete", run.name, "--yes", check=False)
        assert list(run.processes()) == []


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster with a node where pods really run."""
    try:
        with shared_node(tmp_path_factory.mktemp("node") / "state") as cluster:
            yield cluster
    except Unavailable as error:
        absent(str(error))


@pytest.fixture(scope="session")
def node_s3(node: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server of this machine that the node's pods reach."""
    with s3_server(tmp_path_factory.mktemp("node-s3"), _host(node)) as server:
        yield server


@pytest.fixture
def make_cluster_run(
    node: Cluster,
    node_s3: S3Server,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., ClusterRun]]:
    """Makes jobs in a namespace that goes with them at the test's end."""
    with runs_on(node, node_s3, _new_namespace(), shards, tmp_path, monkeypatch) as make:
        yield make


@pytest.fixture
def make_queued_run(
    shards: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., ClusterRun]]:
    """Makes jobs of a priority, low or high, that wait for QUOTA GPUs.

    On a cluster of their own: on the others Kueue's webhooks would have a say in every job.
    """
    folder = tmp_path_factory.mktemp("queued-node")
    namespace = _new_namespace()
    try:
        with (
            running_cluster(folder / "state", with_node=True, with_queue=True) as cluster,
            s3_server(folder / "s3", _host(cluster)) as s3,
            runs_on(cluster, s3, namespace, shards, tmp_path, monkeypatch) as make,
        ):
            cluster.plane.apply(*priority_queue(namespace, namespace, QUOTA))

            def make_queued(name: str, priority: str, epochs: int) -> ClusterRun:
                level = f"job.kueue.priority_class={namespace}-{priority}"
                return make(name, f"--queue={namespace}", level, epochs=epochs)

            yield make_queued
    except Unavailable as error:
        absent(str(error))


@contextlib.contextmanager
def runs_on(
    cluster: Cluster,
    s3: S3Server,
    namespace: str,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., ClusterRun]]:
    """Makes jobs in a new namespace that goes with them at the end."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.plane.kubeconfig))
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    prepare(cluster, s3, namespace, shards)

    def make(
        name: str, *options: str, workers: tuple[int, int, int] = (2, 2, 3), epochs: int = 5
    ) -> ClusterRun:
        audit, patch = tmp_path / f"{name}-audit", tmp_path / f"{name}-patch.yaml"
        write_patch(patch, audit)
        common = ("--model=resnet18", *cluster_options(namespace, patch, workers), *SMALL)
        every = (*common, f"epochs={epochs}", *options)
        return ClusterRun(name, Path("/nowhere"), audit, every, cluster, namespace, s3)

    yield make
    cluster.plane.kubectl("delete", "namespace", namespace, "--timeout=60s")


def _new_namespace() -> str:
    return f"e2e-{uuid.uuid4().hex[:8]}"


def _host(cluster: Cluster) -> str:
    """The machine's address, where the node's pods reach it."""
    assert cluster.node is not None
    return cluster.node.network.host
