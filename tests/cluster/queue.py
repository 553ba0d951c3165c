"""Kueue as a process of this machine, with its real definitions and webhooks."""

from __future__ import annotations

import gzip
from typing import Any

import yaml

from tests.cluster.certificates import make_authority, sign
from tests.cluster.control_plane import ControlPlane
from tests.cluster.tools import ROOT
from tests.cluster.webhooks import client_config, run_controller, wait_until_healthy
from tests.servers import free_ports

OBJECTS = ROOT / "k8s/base/kueue/kueue.yaml.gz"
NAMESPACE = "kueue-system"
DNS_NAME = f"kueue-webhook-service.{NAMESPACE}.svc"
FRAMEWORKS = {
    "batch/job": "jobs",
    "kubeflow.org/pytorchjob": "pytorchjobs",
    "trainer.kubeflow.org/trainjob": "trainjobs",
}
"""The kinds of jobs that it manages, and what their webhooks call them."""
OWN = {"clusterqueues", "cohorts", "resourceflavors", "workloads", "workloads/status"}

_OWN_ETC = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work etc /etc
mkdir -p /etc/kueue/metrics
ln -s "$1" /etc/kueue/metrics/certs
shift
exec "$@"
"""
"""It also wants a certificate for its metrics, at a place that cannot be chosen."""


class Queue:
    """Kueue; `start` may follow `stop`."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.folder = plane.folder / "kueue"
        self.folder.mkdir(exist_ok=True)
        self.webhook_port, self.health_port = free_ports(2)

    def install(self) -> None:
        """Puts definitions, namespace and webhooks into the cluster; then `start` at once."""
        make_authority(self.folder, "kueue-ca", "kueue")
        sign(self.folder, "tls", f"/CN={DNS_NAME}", [f"DNS:{DNS_NAME}", "IP:127.0.0.1"])
        objects = self._objects()
        definitions = [each for each in objects if each["kind"] == "CustomResourceDefinition"]
        webhooks = [each for each in objects if each["kind"] != "CustomResourceDefinition"]
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        self.plane.apply(namespace, *definitions)
        for each in definitions:
            named = f"jsonpath={{.status.acceptedNames.kind}}={each['spec']['names']['kind']}"
            self.plane.kubectl("wait", f"--for={named}", "crd", each["metadata"]["name"])
        self.plane.apply(*webhooks)

    def start(self) -> None:
        """Returns when it answers. Raises NotReady or tools.Unavailable."""
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(self._configuration()))
        program = self.plane.program("kueue")
        run_controller(
            self.plane,
            "kueue",
            self.folder,
            ["sh", "-euc", _OWN_ETC, "-", str(self.folder), program, f"--config={config}"],
            {"KUBECONFIG": str(self.plane.kubeconfig), "POD_NAMESPACE": NAMESPACE},
        )
        wait_until_healthy(self.plane, "kueue", self.health_port)

    def _configuration(self) -> dict[str, Any]:
        return {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "health": {"healthProbeBindAddress": f"127.0.0.1:{self.health_port}"},
            "metrics": {"bindAddress": "0"},
            "webhook": {"port": self.webhook_port},
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {"enable": False},
            # It would need a port of the machine that cannot be chosen.
            "featureGates": {"VisibilityOnDemand": False},
            "clientConnection": {"qps": 50, "burst": 100},
            "integrations": {"frameworks": list(FRAMEWORKS)},
        }

    def _objects(self) -> list[dict[str, Any]]:
        """As Kueue publishes them, but asked on loopback, and only about what it manages."""
        text = gzip.decompress(OBJECTS.read_bytes()).decode()
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        objects: list[dict[str, Any]] = list(yaml.load_all(text, Loader=loader))
        managed = OWN | set(FRAMEWORKS.values())
        for each in objects:
            conversion = each.get("spec", {}).get("conversion", {})
            if conversion.get("strategy") == "Webhook":
                self._ask_here(conversion["webhook"])
            if "webhooks" in each:
                each["webhooks"] = [
                    webhook
                    for webhook in each["webhooks"]
                    if {name for rule in webhook["rules"] for name in rule["resources"]} <= managed
                ]
                for webhook in each["webhooks"]:
                    self._ask_here(webhook)
        return objects

    def _ask_here(self, webhook: dict[str, Any]) -> None:
        path = webhook["clientConfig"]["service"]["path"]
        webhook["clientConfig"] = client_config(self.folder, self.webhook_port, path)


def queue_objects(namespace: str, name: str, gpus: int) -> list[dict[str, Any]]:
    """A ClusterQueue and LocalQueue of the name, with a flavour, which admit so many GPUs.

    CPUs and memory are not counted: a job that asks for them waits for no more than its GPUs.
    """
    api = "kueue.x-k8s.io/v1beta2"
    quotas = [("nvidia.com/gpu", str(gpus)), ("cpu", "1k"), ("memory", "1Pi")]
    group = {
        "coveredResources": [resource for resource, _ in quotas],
        "flavors": [
            {
                "name": name,
                "resources": [{"name": each, "nominalQuota": quota} for each, quota in quotas],
            }
        ],
    }
    return [
        {"apiVersion": api, "kind": "ResourceFlavor", "metadata": {"name": name}},
        {
            "apiVersion": api,
            "kind": "ClusterQueue",
            "metadata": {"name": name},
            "spec": {"namespaceSelector": {}, "resourceGroups": [group]},
        },
        {
            "apiVersion": api,
            "kind": "LocalQueue",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterQueue": name},
        },
    ]


def priority_queue(namespace: str, name: str, gpus: int) -> list[dict[str, Any]]:
    """The same, where a job of priority NAME-high takes the place of one of NAME-low."""
    objects = queue_objects(namespace, name, gpus)
    objects[1]["spec"]["preemption"] = {"withinClusterQueue": "LowerPriority"}
    priorities = [
        {
            "apiVersion": objects[1]["apiVersion"],
            "kind": "WorkloadPriorityClass",
            "metadata": {"name": f"{name}-{level}"},
            "value": value,
        }
        for level, value in (("low", 1), ("high", 100))
    ]
    return [*objects, *priorities]
