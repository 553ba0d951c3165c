"""The launcher's image on a real node: the controller of k8s/overlays/kind runs and leads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.kustomized import SYSTEM, apply
from tests.cluster.tools import Unavailable as NoCluster
from tests.conftest import absent
from tests.images.build import LAUNCHER, archive
from tests.images.engine import Unavailable

LEASE = ("get", "lease", "launcher-controller", "-o", "jsonpath={.spec.holderIdentity}")
PODS = ("get", "pods", "-o", "jsonpath={.items[*].metadata.name}")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a node that has the image."""
    try:
        made = archive(LAUNCHER)
        with running_cluster(tmp_path_factory.mktemp("node") / "state", with_node=True) as cluster:
            assert cluster.node is not None
            cluster.node.import_image(made)
            yield cluster
    except (Unavailable, NoCluster) as error:
        absent(str(error))


def test_the_controller_becomes_available_and_leads(node: Cluster) -> None:
    apply(node.plane, "overlays/kind")
    here = ("-n", SYSTEM)
    rollout = ("rollout", "status", "deployment/launcher-controller", "--timeout=180s")
    assert "successfully rolled out" in node.plane.kubectl(*here, *rollout)
    assert node.plane.kubectl(*here, *LEASE) == node.plane.kubectl(*here, *PODS)
    log = node.plane.kubectl(*here, "logs", "deployment/launcher-controller")
    assert "orbidden" not in log


def test_an_archive_is_made_once(node: Cluster) -> None:
    first = archive(LAUNCHER)
    made_at = first.stat().st_mtime_ns
    assert archive(LAUNCHER) == first
    assert first.stat().st_mtime_ns == made_at
