"""A control plane with the training operator for the session, and a namespace for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.budgeted import defined
from tests.cluster.cluster import Cluster, running_cluster, shared_node
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_nodes import FakeNodes
from tests.cluster.tools import Unavailable
from tests.conftest import absent

BUILD_S = 3600
"""Longest time of the first test, which may have to build everything from source."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_S))


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane with the operator."""
    try:
        with running_cluster(tmp_path_factory.mktemp("plane") / "state") as cluster:
            yield cluster.plane
    except Unavailable as error:
        absent(str(error))


@pytest.fixture(scope="module")
def budgets(plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane, which knows Budgets as long as a module's tests run."""
    with defined(plane):
        yield plane


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster with a node where pods really run, apart from `plane`."""
    try:
        with shared_node(tmp_path_factory.mktemp("node") / "state") as cluster:
            yield cluster
    except Unavailable as error:
        absent(str(error))


@pytest.fixture(scope="session")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with Kueue, and two fake nodes of eight GPUs."""
    try:
        with running_cluster(tmp_path_factory.mktemp("queued") / "state", with_queue=True) as it:
            nodes = FakeNodes(it.plane)
            nodes.start()
            nodes.add(2)
            yield it
    except Unavailable as error:
        absent(str(error))


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    """A new namespace, deleted at the end."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    plane.kubectl("create", "namespace", name)
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")
