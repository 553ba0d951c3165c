"""Whatever is asked of the platform, the real API server takes it: jobs, and each pod by itself.

Pod Security looks into pods and the built-in kinds, not into custom ones, so the pods of each job
are lifted out and offered to namespaces of the levels restricted and privileged.
"""

from __future__ import annotations

import gzip
import http.client
import json
import ssl
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from launcher.render import Object, pod_templates, problems, render
from tests.cluster.control_plane import ControlPlane
from tests.unit.launcher.goldens import spec
from tests.unit.launcher.render_matrix import Row, needs_privilege, request, rows, unwanted

CRDS = Path(__file__).parents[2] / "k8s/base/crds"
TRAINER = {
    "trainer.kubeflow.org_trainjobs": "/apis/trainer.kubeflow.org/v1alpha1/trainjobs",
    "trainer.kubeflow.org_trainingruntimes": "/apis/trainer.kubeflow.org/v1alpha1/trainingruntimes",
    "jobset.x-k8s.io_jobsets": "/apis/jobset.x-k8s.io/v1alpha2/jobsets",
}
"""The CRDs of Trainer v2 with an address that each serves."""
PATHS = {
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods",
    "PyTorchJob": "/apis/kubeflow.org/v1/namespaces/{}/pytorchjobs",
    "TrainJob": "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{}/trainjobs",
    "TrainingRuntime": "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{}/trainingruntimes",
    "JobSet": "/apis/jobset.x-k8s.io/v1alpha2/namespaces/{}/jobsets",
}
READY_S = 60.0


@dataclass
class Server:
    """The API server by one connection that stays open."""

    plane: ControlPlane

    def __post_init__(self) -> None:
        trust = ssl.create_default_context(cafile=str(self.plane.ca))
        self.connection = http.client.HTTPSConnection(
            "127.0.0.1", self.plane.port, timeout=60, context=trust
        )

    def ask(self, method: str, path: str, thing: Object | None = None) -> tuple[int, str]:
        """Status and message; what was accepted has none."""
        token = self.plane.tokens["admin"]
        head = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self.connection.request(method, path, json.dumps(thing) if thing else None, head)
        answer = self.connection.getresponse()
        body = answer.read()
        return answer.status, "" if answer.status < 300 else json.loads(body)["message"]

    def refusal(self, thing: Object, namespace: str) -> str:
        """Why the object may not be created; empty: it may. Nothing is stored."""
        path = f"{PATHS[thing['kind']].format(namespace)}?dryRun=All&fieldValidation=Strict"
        return self.ask("POST", path, thing)[1]

    def wait_for(self, path: str) -> None:
        ends_at = time.monotonic() + READY_S
        while (found := self.ask("GET", path))[0] != 200:
            assert time.monotonic() < ends_at, f"{path}: {found}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[Server]:
    """The API server with the CRDs of Trainer v2 and a class of priority, while the module runs."""
    kept = [plane.folder / f"{name}.yaml" for name in TRAINER]
    for path in kept:
        path.write_bytes(gzip.decompress((CRDS / f"{path.name}.gz").read_bytes()))
    files = [word for path in kept for word in ("-f", str(path))]
    plane.kubectl("create", *files)
    plane.kubectl("create", "priorityclass", "train-normal", "--value=1000")
    found = Server(plane)
    for address in TRAINER.values():
        found.wait_for(address)
    yield found
    found.connection.close()
    plane.kubectl("delete", "priorityclass", "train-normal")
    plane.kubectl("delete", "--wait=false", *files)


@pytest.fixture(scope="module")
def levels(server: Server) -> Iterator[dict[str, str]]:
    """A namespace of each level of Pod Security, with the ServiceAccount that jobs name."""
    made = {level: f"test-{level}-{uuid.uuid4().hex[:8]}" for level in ("restricted", "privileged")}
    for level, name in made.items():
        enforce = {"pod-security.kubernetes.io/enforce": level}
        server.plane.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": enforce}}
        )
        server.plane.kubectl("-n", name, "create", "serviceaccount", "trainer")
        server.wait_for(f"/api/v1/namespaces/{name}/serviceaccounts/default")
    yield made
    server.plane.kubectl("delete", "--wait=false", "namespace", *made.values())


@dataclass(frozen=True)
class Rendered:
    """The objects of a row."""

    row: Row
    objects: list[Object]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> list[Rendered]:
    """The objects of every row."""
    folder = tmp_path_factory.mktemp("patches")
    return [
        Rendered(row, render(spec(request(row, f"row-{index}", folder))))
        for index, row in enumerate(rows())
    ]


def pod(thing: Object, template: Object) -> Object:
    """The pod that a controller makes of a template."""
    made = {"apiVersion": "v1", "kind": "Pod", **template}
    made["metadata"] = {**template["metadata"], "name": thing["metadata"]["name"]}
    return made


def jobset(runtime: Object) -> Object:
    """The JobSet that Trainer makes of a runtime, before it fills in numbers."""
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": runtime["metadata"]["name"]},
        "spec": runtime["spec"]["template"]["spec"],
    }


def test_every_object_is_accepted(server: Server, namespace: str, matrix: list[Rendered]) -> None:
    assert sum(len(each.objects) for each in matrix) >= 300
    for each in matrix:
        for thing in each.objects:
            assert server.refusal(thing, namespace) == "", (each.row, thing["kind"])
            if thing["kind"] == "TrainingRuntime":
                assert server.refusal(jobset(thing), namespace) == "", each.row


def test_our_own_check_accepts_them_too(matrix: list[Rendered]) -> None:
    assert [problems(each.objects) for each in matrix] == [[]] * len(matrix)


def test_none_holds_what_a_pain_taught_to_leave_out(matrix: list[Rendered]) -> None:
    assert [unwanted(each.objects) for each in matrix] == [[]] * len(matrix)


def test_pods_are_restricted_but_for_the_documented_needs_of_rdma(
    server: Server, levels: dict[str, str], matrix: list[Rendered]
) -> None:
    num_privileged = 0
    for each in matrix:
        for thing in each.objects:
            for _, template in pod_templates(thing):
                made = pod(thing, template)
                refusal = server.refusal(made, levels["restricted"])
                if needs_privilege(each.row) and thing["kind"] != "Job":
                    assert 'violates PodSecurity "restricted' in refusal, each.row
                    assert ("IPC_LOCK" in refusal) or ("host namespaces" in refusal), refusal
                    assert server.refusal(made, levels["privileged"]) == "", each.row
                    num_privileged += 1
                else:
                    assert refusal == "", (each.row, thing["kind"])
    assert 0 < num_privileged < len(matrix) / 2


def test_the_server_refuses_what_is_wrong(
    server: Server, namespace: str, matrix: list[Rendered]
) -> None:
    """Else the acceptance above would say nothing."""
    samples = {thing["kind"]: thing for each in matrix for thing in each.objects}
    assert set(samples) == {"Job", "Service", "PyTorchJob", "TrainJob", "TrainingRuntime"}
    for thing in samples.values():
        misspelt = {**thing, "spec": {**thing["spec"], "colour": "red"}}
        assert "colour" in server.refusal(misspelt, namespace)
    text = yaml.safe_dump(samples["PyTorchJob"]).replace("name: pytorch\n", "name: other\n")
    other = yaml.safe_load(text)
    assert "container with name pytorch" in server.refusal(other, namespace)
