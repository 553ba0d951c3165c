"""The launcher's image on a real node: the controller of k8s/overlays/kind and the chart's run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.charts import CHART, Object, program, run
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.kustomized import SYSTEM, TEAM, apply
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


def test_a_release_of_the_chart_takes_over_and_passes_its_test(node: Cluster) -> None:
    # What the overlay says, so that it is nobody's change: the namespace admits only restricted.
    small = {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    values: Object = {
        "controller": {"replicas": 1, "resources": small},
        "networkPolicy": {"defaultDeny": True},
        "teams": [{"namespace": TEAM}],
    }
    apply(node.plane, "overlays/kind")
    helm = program("helm4")
    where = (f"--kubeconfig={node.plane.kubeconfig}", f"--namespace={SYSTEM}", "--timeout=180s")
    flags = (str(CHART), "--take-ownership", "--wait", *where)
    run(helm, "install", "launcher", *flags, values=values)
    assert "Succeeded" in run(helm, "test", "launcher", *where)
    run(helm, "uninstall", "launcher", "--wait", *where)


def test_an_archive_is_made_once(node: Cluster) -> None:
    first = archive(LAUNCHER)
    made_at = first.stat().st_mtime_ns
    assert archive(LAUNCHER) == first
    assert first.stat().st_mtime_ns == made_at
