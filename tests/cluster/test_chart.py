"""The chart on a real API server and node, by Helm 3 and 4: each step of a release, what stays."""

from __future__ import annotations

import json
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.charts import CHART, EVERYTHING, MATRIX, MONITORING, Object, pods, program, rendered, run
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.control_plane import ControlPlane
from tests.cluster.images import SUITE, suite_volumes
from tests.cluster.kustomized import SYSTEM, TEAM, WAIT_S, built
from tests.cluster.tools import Unavailable, monitoring_crds
from tests.conftest import absent
from tests.servers import BUCKET, S3Server, s3_server
from tools import manifests

RELEASE = "launcher"
HELMS = ("helm3", "helm4")
CRDS = ("podmonitors", "prometheusrules", "servicemonitors")
PASSING = re.compile(r"^(events|componentstatuses|.*\.events\.k8s\.io|.*\.metrics\.k8s\.io)")
"""Kinds whose objects come and go by themselves."""
SECRET = "store"
ACCOUNT = "serviceAccountName"
REASON = '{.status.conditions[?(@.type=="Accounted")].reason}'
Known = tuple[str, str, str]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a node, apart from the other tests'."""
    try:
        folder = tmp_path_factory.mktemp("chart") / "state"
        with running_cluster(folder, with_node=True) as running:
            yield running
    except Unavailable as error:
        absent(str(error))


@pytest.fixture(scope="module")
def monitoring(cluster: Cluster) -> bool:
    """Whether the cluster has the Prometheus operator's definitions from now on."""
    try:
        folder = monitoring_crds()
    except Unavailable:
        return False
    for name in CRDS:
        cluster.plane.kubectl("create", "-f", f"{folder}/monitoring.coreos.com_{name}.yaml")
    # kubectl wait fails on a definition that is so new that it has no conditions at all.
    asked = ("api-resources", "--api-group=monitoring.coreos.com", "-o", "name")
    ends_at = time.monotonic() + WAIT_S
    while len(cluster.plane.kubectl(*asked).split()) < len(CRDS):
        assert time.monotonic() < ends_at, "the definitions are not served"
        time.sleep(0.2)
    return True


@pytest.fixture(scope="module")
def store(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A bucket that the node's pods reach."""
    assert cluster.node is not None
    with s3_server(tmp_path_factory.mktemp("store"), cluster.node.network.host) as server:
        yield server


@pytest.fixture
def plane(cluster: Cluster) -> ControlPlane:
    return cluster.plane


@dataclass(frozen=True)
class Release:
    """A release of the chart in the namespace of its own."""

    helm: Path
    plane: ControlPlane

    def do(self, verb: str, *arguments: str, values: Object | None = None) -> str:
        """What Helm prints."""
        place = (f"--kubeconfig={self.plane.kubeconfig}", f"--namespace={SYSTEM}")
        return run(self.helm, verb, RELEASE, *arguments, *place, values=values)

    def kubectl(self, *arguments: str) -> str:
        return self.plane.kubectl("-n", SYSTEM, *arguments)

    def args(self) -> list[str]:
        """The controller's arguments as the API server has them."""
        path = "jsonpath={.spec.template.spec.containers[0].args}"
        found: list[str] = json.loads(
            self.kubectl("get", "deployment/launcher-controller", "-o", path)
        )
        return found

    def pods(self) -> list[str]:
        """Names of the controller's pods that are not ending."""
        answer = self.kubectl(
            "get", "pods", "-l", "app.kubernetes.io/component=controller", "-ojson"
        )
        items = json.loads(answer)["items"]
        return [
            each["metadata"]["name"]
            for each in items
            if "deletionTimestamp" not in each["metadata"]
        ]

    def wait_for_leader(self) -> None:
        """Returns when one of the living pods holds the Lease."""
        path = "jsonpath={.spec.holderIdentity}"
        ends_at = time.monotonic() + WAIT_S
        while (holder := self.kubectl("get", "lease/launcher-controller", "-o", path)) not in (
            pods := self.pods()
        ):
            assert time.monotonic() < ends_at, f"{holder!r} leads, and {pods} live"
            time.sleep(0.5)


def on_the_node(
    replicas: int, ledger: str = "", endpoint: str = "", finalizers: bool = True
) -> Object:
    """Values with which the launcher runs without a registry: the code is this machine's."""
    folders = suite_volumes()
    return {
        "image": {"repository": SUITE.partition(":")[0], "tag": SUITE.partition(":")[2]},
        "controller": {
            "replicas": replicas,
            "extraVolumes": [
                {"name": name, "hostPath": {"path": path, "type": "Directory"}}
                for name, path in folders
            ],
            "extraVolumeMounts": [
                {"name": name, "mountPath": path, "readOnly": True} for name, path in folders
            ],
            "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        },
        "ledger": {"address": ledger, "cluster": "here", "finalizers": finalizers},
        "objectStore": {"secret": SECRET, "endpoint": endpoint, "region": "us-east-1"},
        "networkPolicy": {"defaultDeny": True},
        "metrics": {"labels": {"release": "stack"}},
        "teams": [{"namespace": TEAM}],
    }


def inventory(plane: ControlPlane) -> set[Known]:
    """Kind, namespace and name of every object that there is."""
    kinds = plane.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    wanted = ",".join(kind for kind in kinds if not PASSING.match(kind))
    items = json.loads(plane.kubectl("get", wanted, "-A", "-o", "json"))["items"]
    known = {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
        for each in items
    }
    return {each for each in known if each[1] != "kube-node-lease"}


@pytest.fixture
def empty(plane: ControlPlane, store: S3Server) -> Iterator[None]:
    """The release's namespace with the store's credentials, and nothing of us elsewhere.

    It admits privileged pods, since those of the tests mount this machine's folders; that the
    chart's keep to restricted has a test of its own.
    """
    plane.kubectl("create", "namespace", SYSTEM)
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    values = {key: value for key, value in store.environment().items() if key in keys}
    meta = {"name": SECRET, "namespace": SYSTEM}
    plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": values})
    yield
    plane.kubectl("delete", "namespace", SYSTEM, TEAM, "--ignore-not-found")
    plane.kubectl("delete", "crd", "budgets.launcher.dev", "--ignore-not-found")


@pytest.fixture(params=HELMS)
def release(request: pytest.FixtureRequest, plane: ControlPlane) -> Release:
    return Release(program(request.param), plane)


def test_a_release_lives_and_leaves_nothing_but_what_it_says(
    release: Release, plane: ControlPlane, store: S3Server, empty: None, monitoring: bool
) -> None:
    before = inventory(plane)
    wait = ("--wait", "--timeout=120s")
    told = release.do("install", str(CHART), *wait, values=on_the_node(1))
    assert "launcher-controller 0.1.0 looks after jobs" in told
    assert "ledger.address is not set" in told
    assert ("does not know monitoring.coreos.com/v1" in told) is not monitoring
    if monitoring:
        names = release.kubectl("get", "servicemonitors,podmonitors,prometheusrules", "-o", "name")
        assert len(names.split()) == 2 + len(list(CHART.glob("rules/*.yaml")))
    release.wait_for_leader()
    tested = release.do("test", "--timeout=120s")
    assert "Succeeded" in tested

    release.do("upgrade", str(CHART), *wait, values=on_the_node(2))
    assert len(release.pods()) == 2
    address = f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}"
    told = release.do("upgrade", str(CHART), *wait, values=on_the_node(2, address, store.endpoint))
    assert f"GPU time is accounted in {address} as cluster here" in told
    assert f"--ledger={address}" in release.args()
    release.wait_for_leader()
    account_a_budget(plane)
    unheld = on_the_node(2, address, store.endpoint, finalizers=False)
    release.do("upgrade", str(CHART), *wait, values=unheld)
    plane.kubectl("wait", f"--for=jsonpath={REASON}=NoFinalizer", "budget/vision", "--timeout=60s")

    release.do("rollback", "2", *wait)
    assert not [each for each in release.args() if "ledger" in each]
    release.wait_for_leader()

    plane.kubectl("delete", "budget", "vision")
    release.do("uninstall", *wait)
    ends_at = time.monotonic() + WAIT_S
    while (left := inventory(plane) - before) != (expected := kept()):
        assert time.monotonic() < ends_at, sorted(left ^ expected)
        time.sleep(1)
    assert before - inventory(plane) == set()


def account_a_budget(plane: ControlPlane) -> None:
    """Makes a budget, and returns when the controller tells that pods are held until stored."""
    meta = {"name": "vision"}
    spec = {"gpuDays": 10}
    plane.apply(
        {"apiVersion": "launcher.dev/v1alpha1", "kind": "Budget", "metadata": meta, "spec": spec}
    )
    plane.kubectl("wait", f"--for=jsonpath={REASON}=Ledger", "budget/vision", "--timeout=60s")


def kept() -> set[Known]:
    """What stays when the release goes, with what Kubernetes makes for each of them."""
    return {
        ("CustomResourceDefinition", "", "budgets.launcher.dev"),
        ("APIService", "", "v1alpha1.launcher.dev"),
        ("Namespace", "", TEAM),
        ("ServiceAccount", TEAM, "default"),
        ("ConfigMap", TEAM, "kube-root-ca.crt"),
    }


def test_a_release_takes_over_what_kustomize_installed(
    release: Release, plane: ControlPlane, empty: None
) -> None:
    plane.kubectl("apply", "--server-side", "-k", str(manifests.ROOT / "k8s/base"))
    values = {key: value for key, value in manifests.VALUES.items() if key != "crds"}
    release.do("install", str(CHART), "--take-ownership", values=values)
    # What both make is the same: nobody else's value of any field is touched.
    text = built(plane, "base")
    flags = ("--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    plane.kubectl("apply", *flags, "--field-manager=somebody", given=text)
    plane.kubectl("apply", *flags, "--field-manager=helm", given=text)
    release.do("uninstall", "--wait", "--timeout=60s")
    left = {each for each in inventory(plane) if each[1] in (SYSTEM, TEAM)}
    assert {each[0] for each in left} <= {"ConfigMap", "Secret", "ServiceAccount", "Pod"}


def test_the_api_server_takes_every_object_as_it_is(
    plane: ControlPlane, empty: None, monitoring: bool
) -> None:
    if not monitoring:
        absent("the Prometheus operator's definitions cannot be had: Go fetches them")
    plane.kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
    names = [team["namespace"] for team in EVERYTHING["teams"]]
    for name in names:
        plane.kubectl("create", "namespace", name)
    for values in MATRIX.values():
        objects = rendered(program("helm4"), values, MONITORING)
        taken_without_a_word(plane, objects)
        for number, pod in enumerate(pods(objects)):
            alone = {"apiVersion": "v1", "kind": "Pod"}
            meta = {"name": f"pod-{number}", "namespace": SYSTEM}
            # Neither is there: an account of the release, and a class that is kube-system's own.
            pod = {key: pod[key] for key in pod if key not in ("priorityClassName", ACCOUNT)}
            taken_without_a_word(plane, [alone | {"metadata": meta, "spec": pod}])
    plane.kubectl("delete", "namespace", *names)


def taken_without_a_word(plane: ControlPlane, objects: list[Object]) -> None:
    """Neither refused nor warned of: what is misspelt, deprecated, or not restricted would be."""
    flags = ("--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    done = subprocess.run(
        [str(plane.client), f"--kubeconfig={plane.kubeconfig}", "apply", *flags],
        input=yaml.safe_dump_all(objects),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(objects)
