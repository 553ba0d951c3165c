"""Pods on the real node, and what is left of a node that has ended."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, make_cluster
from tests.cluster.images import TOOLS
from tests.cluster.node import GPUS, NAME
from tests.cluster.parts import NotReady, living
from tests.cluster.sandbox import CGROUPS
from tests.cluster.tools import Unavailable
from tests.conftest import absent

RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
ENDS_S = 60.0


@pytest.fixture
def space(node: Cluster) -> Iterator[str]:
    """A new namespace on the cluster with the node, which admits restricted pods only."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    make_namespace(node, name)
    yield name
    node.plane.kubectl("delete", "namespace", name, "--wait=false")


def make_namespace(cluster: Cluster, name: str) -> None:
    cluster.plane.kubectl("create", "namespace", name)
    cluster.plane.kubectl("label", "namespace", name, RESTRICTED)
    ends_at = time.monotonic() + ENDS_S
    while not cluster.plane.kubectl(
        "-n", name, "get", "serviceaccount", "default", "--ignore-not-found", "-o", "name"
    ):
        assert time.monotonic() < ends_at, "no service account"
        time.sleep(0.1)


def pod(name: str, gpus: int = 0) -> dict[str, Any]:
    """A pod that waits; no namespace refuses it."""
    container: dict[str, Any] = {
        "name": "main",
        "image": TOOLS,
        "command": ["sh", "-c", "echo started; trap 'exit 0' TERM; sleep 600 & wait"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    context = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    context |= {"runAsUser": 10001}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "securityContext": context,
            "containers": [container],
            "terminationGracePeriodSeconds": 1,
        },
    }


def run_pod(cluster: Cluster, namespace: str, name: str) -> None:
    cluster.plane.kubectl("-n", namespace, "create", "-f", "-", given=json.dumps(pod(name)))
    wait_ready(cluster, namespace, name)


def wait_ready(cluster: Cluster, namespace: str, name: str) -> None:
    wait = ("wait", f"pod/{name}", "--for=condition=Ready", f"--timeout={ENDS_S:.0f}s")
    cluster.plane.kubectl("-n", namespace, *wait)


def logs_again(cluster: Cluster, namespace: str, name: str) -> str:
    """The pod's log, once a kubelet that has just started knows its pods."""
    ends_at = time.monotonic() + ENDS_S
    while True:
        try:
            return cluster.plane.kubectl("-n", namespace, "logs", name)
        except subprocess.CalledProcessError as error:
            if "NotFound" not in error.stderr or time.monotonic() > ends_at:
                raise
        time.sleep(0.1)


def test_an_ordinary_pod_has_logs_exec_names_and_services(node: Cluster, space: str) -> None:
    run_pod(node, space, "web")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "page", "namespace": space},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }
    node.plane.apply(service)
    inside = ("-n", space, "exec", "web", "--")
    assert node.plane.kubectl("-n", space, "logs", "web") == "started\n"
    assert node.plane.kubectl(*inside, "id", "-u") == "10001\n"
    get = ("-n", space, "get", "service", "page", "-o", "jsonpath={.spec.clusterIP}")
    address = node.plane.kubectl(*get)
    found = node.plane.kubectl(*inside, "getent", "hosts", "page")
    assert found.split() == [address, f"page.{space}.svc.cluster.local"]
    with pytest.raises(subprocess.CalledProcessError):
        node.plane.kubectl(*inside, "getent", "hosts", "nobody")
    with pytest.raises(subprocess.CalledProcessError):
        node.plane.kubectl(*inside, "touch", "/written")


def test_a_restricted_namespace_refuses_what_is_not(node: Cluster, space: str) -> None:
    greedy = pod("greedy")
    greedy["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(subprocess.CalledProcessError) as caught:
        node.plane.kubectl("-n", space, "create", "-f", "-", given=json.dumps(greedy))
    assert "violates PodSecurity" in caught.value.stderr


def test_the_scheduler_counts_gpus(node: Cluster, space: str) -> None:
    for name, gpus in (("first", GPUS - 3), ("second", 4)):
        text = json.dumps(pod(name, gpus))
        node.plane.kubectl("-n", space, "create", "-f", "-", given=text)
    wait_ready(node, space, "first")
    refused = "jsonpath={.status.conditions[?(@.type=='PodScheduled')].reason}=Unschedulable"
    node.plane.kubectl("-n", space, "wait", "pod/second", f"--for={refused}")
    told = node.plane.kubectl("-n", space, "get", "pod", "second", "-o", "yaml")
    assert "Insufficient nvidia.com/gpu" in told
    node.plane.kubectl("-n", space, "delete", "pod", "first")
    wait_ready(node, space, "second")


def test_a_restarted_kubelet_keeps_pods_and_gpus(node: Cluster, space: str) -> None:
    node.plane.kubectl("-n", space, "create", "-f", "-", given=json.dumps(pod("stays", gpus=2)))
    wait_ready(node, space, "stays")
    get = ("-n", space, "get", "pod", "stays", "-o", "jsonpath={.status.containerStatuses}")
    before = json.loads(node.plane.kubectl(*get))
    assert node.node is not None
    node.node.restart_kubelet()
    assert logs_again(node, space, "stays") == "started\n"
    assert json.loads(node.plane.kubectl(*get)) == before
    gpus = r"jsonpath={.status.allocatable.nvidia\.com/gpu}"
    assert node.plane.kubectl("get", "node", NAME, "-o", gpus) == str(GPUS)


def machine() -> dict[str, str]:
    """What a node could leave on this machine."""
    commands = {
        "packet filter": ["iptables-save"],
        "mounts": ["cat", "/proc/self/mounts"],
        "network namespaces": ["ip", "netns", "list"],
        "folders": ["ls", "/var/lib", "/etc", "/opt"],
        "kernel": ["sysctl", "vm.overcommit_memory", "kernel.panic", "net.ipv4.ip_forward"],
    }
    found = {}
    for name, command in commands.items():
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        found[name] = "\n".join(line for line in lines if not line.startswith("#"))
    return found


def left_of(cluster: Cluster) -> list[str]:
    """Whatever still bears the cluster's name."""
    assert cluster.node is not None
    sandbox = cluster.node.sandbox
    links = subprocess.run(["ip", "link"], check=True, capture_output=True, text=True).stdout
    routes = subprocess.run(["ip", "route"], check=True, capture_output=True, text=True).stdout
    names = [sandbox.interface, cluster.node.network.pods]
    found = [line for line in (links + routes).splitlines() if any(n in line for n in names)]
    # A pod's processes are all in the control groups, which cannot go before them.
    found += [str(each) for each in CGROUPS.rglob(sandbox.group)]
    return found + [str(pid) for pid in living(cluster.plane.folder)]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with a node that is not started, and that a test may destroy."""
    try:
        cluster = make_cluster(tmp_path / "state", with_node=True)
    except Unavailable as error:
        absent(str(error))
    yield cluster
    cluster.stop()


def test_nothing_is_left_of_a_node(own: Cluster) -> None:
    before = machine()
    own.start()
    make_namespace(own, "some")
    run_pod(own, "some", "web")
    assert left_of(own)
    own.stop()
    assert left_of(own) == []
    assert machine() == before


def test_nothing_is_left_of_a_node_whose_parts_have_died(own: Cluster) -> None:
    before = machine()
    own.start()
    make_namespace(own, "some")
    run_pod(own, "some", "web")
    for name in ("kube-apiserver", "containerd", "kubelet"):
        own.plane.parts[name].process.kill()
    own.stop()
    assert left_of(own) == []
    assert machine() == before


def test_nothing_is_left_of_a_node_that_did_not_start(own: Cluster) -> None:
    before = machine()
    own.plane.start()
    assert own.node is not None
    own.node.start_kubelet = lambda: own.plane.run("kubelet", ["false"])  # type: ignore[method-assign]
    with pytest.raises(NotReady, match="kubelet ended"):
        own.node.start()
    own.stop()
    assert left_of(own) == []
    assert machine() == before
