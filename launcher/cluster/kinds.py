"""The kinds of objects that the launcher talks about, and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as the API server's JSON has it."""


@dataclass(frozen=True)
class Kind:
    """A kind of object: apiVersion, kind, and the plural that stands in addresses."""

    version: str
    """Group and version, as `kubeflow.org/v1`; the core group has none, as `v1`."""
    name: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The address on the server; without a namespace that of all namespaces."""
        parts = ["apis" if "/" in self.version else "api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)

    @property
    def full_name(self) -> str:
        """As `kubectl -o name` writes it: pytorchjob.kubeflow.org, pod."""
        group = self.version.partition("/")[0] if "/" in self.version else ""
        return f"{self.name.lower()}.{group}" if group else self.name.lower()


PYTORCHJOB = Kind("kubeflow.org/v1", "PyTorchJob", "pytorchjobs")
TRAINJOB = Kind("trainer.kubeflow.org/v1alpha1", "TrainJob", "trainjobs")
RUNTIME = Kind("trainer.kubeflow.org/v1alpha1", "TrainingRuntime", "trainingruntimes")
JOB = Kind("batch/v1", "Job", "jobs")
SERVICE = Kind("v1", "Service", "services")
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
NODE = Kind("v1", "Node", "nodes", namespaced=False)
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
WORKLOAD = Kind("kueue.x-k8s.io/v1beta2", "Workload", "workloads")
OLD_WORKLOAD = Kind("kueue.x-k8s.io/v1beta1", "Workload", "workloads")
"""Of Kueue before 0.15."""
ADMISSION_CHECK = Kind(
    "kueue.x-k8s.io/v1beta2", "AdmissionCheck", "admissionchecks", namespaced=False
)
BUDGET = Kind("launcher.dev/v1alpha1", "Budget", "budgets", namespaced=False)
CRD = Kind(
    "apiextensions.k8s.io/v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    namespaced=False,
)
ACCESS_REVIEW = Kind(
    "authorization.k8s.io/v1",
    "SelfSubjectAccessReview",
    "selfsubjectaccessreviews",
    namespaced=False,
)

KINDS = {
    (kind.version, kind.name): kind
    for kind in (
        PYTORCHJOB,
        TRAINJOB,
        RUNTIME,
        JOB,
        SERVICE,
        POD,
        EVENT,
        LEASE,
        WORKLOAD,
        BUDGET,
    )
}


def kind_of(thing: Object) -> Kind:
    """The kind of a rendered object. Raises KeyError for one that the launcher never makes."""
    return KINDS[thing["apiVersion"], thing["kind"]]
