"""A cluster for tests: control plane, training operator, on request a node and Kueue."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.control_plane import ControlPlane
from tests.cluster.network import find_network
from tests.cluster.node import Node, why_absent
from tests.cluster.operator import Operator
from tests.cluster.queue import Queue
from tests.cluster.sandbox import can_unshare
from tests.cluster.tools import ROOT, Unavailable

CRD = ROOT / "k8s/base/crds/kubeflow.org_pytorchjobs.yaml.gz"
PROGRAMS = ("openssl", "unshare", "zstd")


@dataclass
class Cluster:
    """What runs; `stop` ends all of it, whichever part has died before."""

    plane: ControlPlane
    operator: Operator
    node: Node | None
    queue: Queue | None

    def start(self) -> None:
        """Returns when jobs can be created. Raises NotReady or tools.Unavailable."""
        self.plane.start()
        if self.node is not None:
            self.node.start()
        if self.queue is not None:
            self.queue.install()
            self.queue.start()
        self.operator.install()
        self.operator.start()

    def stop(self) -> None:
        if self.node is not None:
            self.node.stop()
        self.plane.stop()


def make_cluster(folder: Path, with_node: bool = False, with_queue: bool = False) -> Cluster:
    """A cluster that is not started. Raises tools.Unavailable where a program is absent."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise Unavailable(f"no program {program}")
    if os.geteuid() != 0 or not can_unshare("--mount"):
        raise Unavailable("the operator's webhook needs a mount namespace, which needs root")
    if with_node and (reason := why_absent()):
        raise Unavailable(reason)
    plane = ControlPlane(folder, find_network() if with_node else None)
    crd = folder / "crd.yaml"
    crd.write_bytes(gzip.decompress(CRD.read_bytes()))
    return Cluster(
        plane,
        Operator(plane, crd),
        Node(plane) if with_node else None,
        Queue(plane) if with_queue else None,
    )


@contextlib.contextmanager
def running_cluster(
    folder: Path, with_node: bool = False, with_queue: bool = False
) -> Iterator[Cluster]:
    """A cluster that runs. Raises NotReady or tools.Unavailable."""
    cluster = make_cluster(folder, with_node, with_queue)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


_lent: list[Cluster] = []


@contextlib.contextmanager
def shared_node(folder: Path) -> Iterator[Cluster]:
    """A running cluster with a node; inside of another `shared_node`, that one's.

    So all tests of a session that need a node get the same, whoever asks first.
    """
    if _lent:
        yield _lent[0]
        return
    with running_cluster(folder, with_node=True) as cluster:
        _lent.append(cluster)
        try:
            yield cluster
        finally:
            _lent.clear()
