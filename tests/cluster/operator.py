"""The training operator as a process of this machine, its webhook asked by the real API server.

In a cluster the kubelet mounts the webhook's certificate; here it is made beforehand for the
Service's name and for 127.0.0.1, stored in the Secret that the operator looks for, and laid where
it reads it. That folder is fixed in the operator, so it is mounted over in a mount namespace.
"""

from __future__ import annotations

import base64
import contextlib
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.cluster.certificates import make_authority, sign
from tests.cluster.control_plane import READY_S, ControlPlane
from tests.cluster.parts import NotReady
from tests.cluster.tools import ensure
from tests.servers import free_ports

NAMESPACE = "kubeflow"
SECRET = "training-operator-webhook-cert"
WEBHOOK = "validator.training-operator.kubeflow.org"
CERTIFICATES = "/tmp/k8s-webhook-server/serving-certs"
"""Where the operator reads its certificate, whatever TMPDIR is."""
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
        self.plane.programs |= ensure(["training-operator.v1"])
        program = self.plane.programs["training-operator.v1"]
        flags = [
            "--enable-scheme=pytorchjob",
            "--metrics-bind-address=0",
            f"--health-probe-bind-address=127.0.0.1:{self.health_port}",
            f"--webhook-server-port={self.webhook_port}",
            f"--kubeconfig={self.kubeconfig}",
        ]
        mount = f'mkdir -p {CERTIFICATES} && mount --bind "$1" {CERTIFICATES} && shift && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, "-", str(self.folder), str(program)]
        self.plane.run("training-operator", [*command, *flags], {"MY_POD_NAMESPACE": NAMESPACE})
        ends_at = time.monotonic() + READY_S
        while time.monotonic() < ends_at:
            part = self.plane.parts["training-operator"]
            if part.process.poll() is not None:
                raise NotReady(f"the training operator ended: {part.tail()}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/readyz", timeout=2)
                return
            time.sleep(0.1)
        raise NotReady(f"the training operator is not ready: {part.tail()}")

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
        ca = base64.b64encode((self.folder / "ca.crt").read_bytes()).decode()
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
                    "clientConfig": {
                        "url": f"https://127.0.0.1:{self.webhook_port}/{path}",
                        "caBundle": ca,
                    },
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
