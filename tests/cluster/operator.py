"""The training operator as a process of this machine, its webhook asked by the real API server.

The certificate that it serves is also in the Secret where it looks for one.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tests.cluster.certificates import make_authority, sign
from tests.cluster.control_plane import ControlPlane
from tests.cluster.webhooks import client_config, run_controller, wait_until_healthy
from tests.servers import free_ports

NAME = "training-operator"
NAMESPACE = "kubeflow"
SECRET = "training-operator-webhook-cert"
WEBHOOK = "validator.training-operator.kubeflow.org"
DNS_NAME = f"training-operator.{NAMESPACE}.svc"


class Operator:
    """The operator for PyTorchJobs; `start` and `stop` may follow each other."""

    def __init__(self, plane: ControlPlane, crd: Path) -> None:
        """crd: the PyTorchJob's CustomResourceDefinition, YAML."""
        self.plane, self.crd = plane, crd
        self.folder = plane.folder / "operator"
        self.folder.mkdir()
        self.webhook_port, self.health_port = free_ports(2)
        self.kubeconfig = plane.kubeconfig

    def install(self) -> None:
        """Puts CRD, namespace, certificate and webhook into the cluster."""
        make_authority(self.folder, "training-operator-ca", "training-operator")
        sign(self.folder, "tls", f"/CN={DNS_NAME}", [f"DNS:{DNS_NAME}", "IP:127.0.0.1"])
        self.plane.kubectl("create", "-f", str(self.crd))
        # Not condition=Established: kubectl fails where there are no conditions yet.
        named = "jsonpath={.status.acceptedNames.kind}=PyTorchJob"
        self.plane.kubectl("wait", f"--for={named}", "-f", str(self.crd))
        self.plane.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            self._secret(),
            self._webhook(),
        )

    def start(self) -> None:
        """Returns when the webhook answers."""
        program = self.plane.program("training-operator.v1")
        flags = [
            "--enable-scheme=pytorchjob",
            # Its defaults, 20 requests a second, would make 8,000 pods in a quarter of an hour.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--controller-threads=4",
            "--metrics-bind-address=0",
            f"--health-probe-bind-address=127.0.0.1:{self.health_port}",
            f"--webhook-server-port={self.webhook_port}",
            f"--kubeconfig={self.kubeconfig}",
        ]
        env = {"MY_POD_NAMESPACE": NAMESPACE}
        run_controller(self.plane, NAME, self.folder, [program, *flags], env)
        wait_until_healthy(self.plane, NAME, self.health_port)

    def _secret(self) -> dict[str, Any]:
        names = ("ca.crt", "ca.key", "tls.crt", "tls.key")
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": NAMESPACE},
            "data": {
                name: base64.b64encode((self.folder / name).read_bytes()).decode() for name in names
            },
        }

    def _webhook(self) -> dict[str, Any]:
        path = "validate-kubeflow-org-v1-pytorchjob"
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": WEBHOOK},
            "webhooks": [
                {
                    "name": "validator.pytorchjob.training-operator.kubeflow.org",
                    "admissionReviewVersions": ["v1"],
                    "failurePolicy": "Fail",
                    "sideEffects": "None",
                    "clientConfig": client_config(self.folder, self.webhook_port, path),
                    "rules": [
                        {
                            "apiGroups": ["kubeflow.org"],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE", "UPDATE"],
                            "resources": ["pytorchjobs"],
                        }
                    ],
                }
            ],
        }
