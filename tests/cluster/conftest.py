"""A control plane with the training operator for the session, and a namespace for each test."""

from __future__ import annotations

import gzip
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.operator import Operator
from tests.cluster.tools import Unavailable
from tests.conftest import absent

CRD = Path(__file__).parents[2] / "k8s/base/crds/kubeflow.org_pytorchjobs.yaml.gz"
BUILD_S = 3600
"""Longest time of the first test, which may have to build everything from source."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_S))


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane with the operator."""
    for program in ("openssl", "unshare", "zstd"):
        if shutil.which(program) is None:
            absent(f"no program {program}")
    if os.geteuid() != 0:
        absent("the operator's webhook needs a mount namespace, which needs root")
    folder = tmp_path_factory.mktemp("plane")
    crd = folder / "crd.yaml"
    crd.write_bytes(gzip.decompress(CRD.read_bytes()))
    try:
        with control_plane(folder / "state") as running:
            operator = Operator(running, crd)
            operator.install()
            operator.start()
            yield running
    except Unavailable as error:
        absent(str(error))


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    """A new namespace, deleted at the end."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    plane.kubectl("create", "namespace", name)
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")
