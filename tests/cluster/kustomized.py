"""k8s/ applied to a real API server, and a person who has nothing but a token."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.tools import ROOT

SYSTEM, TEAM = "webvision-system", "webvision"
"""The namespaces of the controller and of the jobs."""
WAIT_S = 60.0
VOLATILE = ("resourceVersion", "managedFields", "generation", "annotations", "finalizers")
"""What of an object's metadata the API server and controllers change by themselves."""

Object = dict[str, Any]


def built(plane: ControlPlane, folder: str) -> str:
    """What kustomize makes of a folder of k8s/."""
    return plane.kubectl("kustomize", str(ROOT / "k8s" / folder))


def apply(plane: ControlPlane, folder: str) -> str:
    text = built(plane, folder)
    # Another overlay before may have left its own values of the same fields by the same manager.
    plane.kubectl("apply", "--server-side", "-f", "-", given=text)
    return text


def stored(plane: ControlPlane, text: str) -> list[Object]:
    """The objects of a manifest as the API server has them, without what it counts by itself."""
    items: list[Object] = json.loads(plane.kubectl("get", "-f", "-", "-o", "json", given=text))[
        "items"
    ]
    for item in items:
        item.pop("status", None)
        for key in VOLATILE:
            item["metadata"].pop(key, None)
    return items


def wait_for_pods(plane: ControlPlane, selector: str, count: int, namespace: str) -> list[Object]:
    """The pods that a label selector finds, once there are so many; a rollout may add some."""
    ends_at = time.monotonic() + WAIT_S
    while time.monotonic() < ends_at:
        answer = plane.kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
        pods: list[Object] = json.loads(answer)["items"]
        if len(pods) >= count:
            return pods
        time.sleep(0.2)
    raise AssertionError(f"{len(pods)} pods of {selector}, and not {count}")


@dataclass
class Person:
    """Who has a token of a real ServiceAccount."""

    plane: ControlPlane
    token: str

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints with nothing but the token. Raises CalledProcessError."""
        own = (
            f"--server={self.plane.server}",
            f"--certificate-authority={self.plane.ca}",
            f"--token={self.token}",
        )
        return subprocess.run(
            [str(self.plane.client), "--kubeconfig=/dev/null", *own, *arguments],
            input=given,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def refused(self, *arguments: str) -> str:
        """Why kubectl did not do it."""
        with pytest.raises(subprocess.CalledProcessError) as caught:
            self.kubectl(*arguments)
        return str(caught.value.stderr)

    def review(self, kind: str, spec: Object) -> Object:
        """The status of a review that the API server makes of the person."""
        version = "authorization.k8s.io/v1"
        body = {"apiVersion": version, "kind": kind, "spec": spec}
        context = ssl.create_default_context(cafile=str(self.plane.ca))
        context.check_hostname = False
        request = urllib.request.Request(
            f"{self.plane.server}/apis/{version}/{kind.lower()}s",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            status: Object = json.load(answer)["status"]
        return status

    def may(self, call: str, namespace: str) -> bool:
        """call: `verb resource.group/subresource`."""
        verb, _, resource = call.partition(" ")
        resource, _, subresource = resource.partition("/")
        resource, _, group = resource.partition(".")
        asked = {"verb": verb, "resource": resource, "group": group, "subresource": subresource}
        spec = {"resourceAttributes": asked | {"namespace": namespace}}
        return bool(self.review("SelfSubjectAccessReview", spec)["allowed"])
