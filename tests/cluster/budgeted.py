"""A control plane that knows Budgets, a namespace on it, and its budgets."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from launcher.cluster import connect, ledger
from launcher.cluster.client import Api
from launcher.cluster.kinds import BUDGET, POD, PYTORCHJOB
from tests.cluster.control_plane import ControlPlane
from tests.cluster.controllers import install, until
from tests.cluster.ledgers import living_node
from tests.cluster.tools import ROOT


@contextlib.contextmanager
def defined(plane: ControlPlane) -> Iterator[None]:
    """The definition of Budget, for as long as it is wanted, and a ServiceAccount of the
    controller, whose kubeconfig is controller.yaml in the plane's folder."""
    install(plane, plane.folder / "controller.yaml")
    plane.kubectl("apply", "--server-side", "-f", str(ROOT / "k8s/crds/budgets.launcher.dev.yaml"))
    plane.kubectl(
        "wait", "--for=condition=Established", "crd/budgets.launcher.dev", "--timeout=60s"
    )
    yield
    plane.kubectl("delete", "crd", "budgets.launcher.dev")


@contextlib.contextmanager
def namespace(plane: ControlPlane) -> Iterator[Api]:
    """A new namespace for the administrator, with a node that has GPUs; $KUBECONFIG is set."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    plane.kubectl("create", "namespace", name)
    made = connect("", name)
    with living_node(made):
        yield made
        plane.kubectl("delete", "budgets.launcher.dev", "--all")
        for job in made.listing(PYTORCHJOB).items:
            made.delete(PYTORCHJOB, job["metadata"]["name"])
        for pod in made.listing(POD).items:
            ledger.release(made, pod)
            made.delete(POD, pod["metadata"]["name"], grace_s=0)
        plane.kubectl("delete", "namespace", name, "--wait=false")


def make_budget(api: Api, name: str = "webvision", **spec: Any) -> None:
    api._ask("POST", BUDGET, "", body={
        "apiVersion": "launcher.dev/v1alpha1",
        "kind": "Budget",
        "metadata": {"name": name},
        "spec": spec,
    })  # fmt: skip


def status(api: Api, name: str = "webvision") -> dict[str, Any]:
    found: dict[str, Any] = api.get(BUDGET, name).get("status", {})
    return found


def wait_accounted(api: Api, name: str = "webvision") -> None:
    """Waits until jobs may start on a budget."""

    def look() -> bool:
        told = status(api, name)
        names = {each["type"] for each in told.get("conditions", ()) if each["status"] == "True"}
        return "Accounted" in names and bool(told.get("asOf"))

    until(look, f"budget {name} is accounted")
