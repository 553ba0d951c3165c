"""Nodes that only say that they run pods (kwok): for thousands of pods on one small machine."""

from __future__ import annotations

import contextlib
import time
import urllib.error
import urllib.request
from typing import Any

import yaml

from tests.cluster.control_plane import READY_S, ControlPlane
from tests.cluster.parts import NotReady
from tests.servers import free_ports

MARK = {"kwok.x-k8s.io/node": "fake"}


def _stage(
    name: str, kind: str, when: dict[str, list[str]], then: dict[str, Any]
) -> dict[str, Any]:
    """What kwok does with an object: once the values at `when` differ from those named."""
    conditions = [
        {"key": key, "operator": "NotIn", "values": values}
        if values
        else {"key": key, "operator": "Exists"}
        for key, values in when.items()
    ]
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": conditions},
            "next": then,
        },
    }


_READY = '.status.conditions.[] | select( .type == "Ready" ) | .status'
_NODE = """
conditions:
{{ range NodeConditions }}
- {type: {{ .type | Quote }}, status: {{ .status | Quote }}, reason: {{ .reason | Quote }},
   lastHeartbeatTime: {{ Now | Quote }}, lastTransitionTime: {{ Now | Quote }}}
{{ end }}
phase: Running
"""
_POD = """
phase: Running
startTime: {{ Now | Quote }}
podIP: {{ index (PodIPsWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace) 0 | Quote }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ Now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ Now | Quote }}}
- {type: Ready, status: "True", lastTransitionTime: {{ Now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- {name: {{ .name | Quote }}, image: {{ .image | Quote }}, ready: true, restartCount: 0,
   state: {running: {startedAt: {{ Now | Quote }}}}}
{{ end }}
"""  # noqa: E501
STAGES = (
    _stage("node", "Node", {_READY: ["True"]}, {"statusTemplate": _NODE}),
    _stage("pod", "Pod", {_READY: ["True"], ".status.phase": ["Succeeded", "Failed"]},
           {"statusTemplate": _POD}),
    # Finalizers keep a pod as they do on a real node.
    _stage("deleted", "Pod", {".metadata.deletionTimestamp": []}, {"delete": True}),
)  # fmt: skip


class FakeNodes:
    """kwok beside a control plane; real nodes beside it are left alone."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        (self.port,) = free_ports(1)

    def start(self) -> None:
        """Returns when it answers. Raises NotReady or tools.Unavailable."""
        stages = self.plane.folder / "kwok-stages.yaml"
        stages.write_text(yaml.safe_dump_all(STAGES))
        self.plane.run(
            "kwok",
            [
                self.plane.program("kwok"),
                f"--config={stages}",
                f"--kubeconfig={self.plane.kubeconfig}",
                "--manage-all-nodes=false",
                "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                f"--server-address=127.0.0.1:{self.port}",
                # A kubelet's; nodes that renew it less often count as lost after a minute.
                "--node-lease-duration-seconds=40",
            ],
            # It reads settings from the user's home otherwise.
            {"KWOK_WORKDIR": str(self.plane.folder / "kwok")},
        )
        ends_at = time.monotonic() + READY_S
        part = self.plane.parts["kwok"]
        while time.monotonic() < ends_at:
            if part.process.poll() is not None:
                raise NotReady(f"kwok ended: {part.tail()}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2)
                return
            time.sleep(0.1)
        raise NotReady(f"kwok is not ready after {READY_S:.0f} s: {part.tail()}")

    def add(self, count: int, gpus: int = 8) -> None:
        """Creates nodes fake-0, fake-1, … and returns when the scheduler may use them."""
        self.plane.apply(*(_node(number, gpus) for number in range(count)))
        wait = ("wait", "node", "-l", "type=fake", "--for=condition=Ready", "--timeout=120s")
        self.plane.kubectl(*wait)


def _node(number: int, gpus: int) -> dict[str, Any]:
    resources = {"cpu": "256", "memory": "2Ti", "pods": "250", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": f"fake-{number}",
            "annotations": MARK,
            "labels": {"type": "fake", "kubernetes.io/hostname": f"fake-{number}"},
        },
        "status": {"allocatable": resources, "capacity": resources},
    }
