"""A run on a real node as a user drives it: data and checkpoints in a bucket, agents in pods."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from examples.demo.audit import Lines
from tests.cluster.cluster import Cluster
from tests.cluster.images import SUITE, with_machine
from tests.e2e.runs import SMALL, Run, launcher
from tests.servers import BUCKET, S3Server

SECRET = "s3"
WORKER_SELECTOR = "training.kubeflow.org/replica-type=worker"
QUICK = ("job.rendezvous.last_call_timeout_s=1",)
"""As on one machine: a pod starts in a second here, where a cluster pulls images for minutes."""
Object = dict[str, Any]


@dataclass(frozen=True)
class ClusterRun(Run):
    """A job in a namespace; `audit` is a folder of this machine which its pods mount."""

    cluster: Cluster
    namespace: str
    s3: S3Server

    def submit(self) -> None:
        launcher("submit", "-n", self.namespace, "--name", self.name, *self.options)

    def finetune(self, source: str, *flags: str) -> None:
        """Starts it from another run's weights; what `submit` says of the run comes from there."""
        own = [each for each in self.options if each not in SMALL]
        place = ("-n", self.namespace, "--name", self.name)
        launcher("finetune", "--from", source, *place, *own, *flags)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.launcher("status", "-o", "json"))
        return answer

    def launcher(self, verb: str, *flags: str) -> str:
        """What a verb on the job prints."""
        return launcher(verb, self.name, "-n", self.namespace, *flags).stdout

    def metrics(self) -> Lines:
        return [json.loads(line) for line in self.stored("metrics.jsonl").splitlines()]

    def stored(self, key: str) -> str:
        """The text of an object in the run's folder; empty where there is none."""
        name = f"{self._prefix()}runs/{self.name}/{key}"
        with self._client() as client:
            try:
                body: bytes = client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
            except client.exceptions.NoSuchKey:
                return ""
        return body.decode()

    def finished(self, timeout: str = "300s") -> None:
        flags = ("-n", self.namespace, "--timeout", timeout)
        done = launcher("wait", self.name, *flags, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{self.tell()}"

    def tell(self) -> str:
        flags = ("-n", self.namespace)
        logs = launcher("logs", self.name, *flags, check=False).stdout.splitlines(keepends=True)
        pods = self.kubectl("get", "pods", "-o", "wide")
        told = launcher("status", self.name, *flags, check=False).stdout
        return told + pods + "".join(logs[-60:])

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.plane.kubectl("-n", self.namespace, *arguments)

    def pods(self, selector: str = WORKER_SELECTOR) -> list[Object]:
        """The job's pods by name, those that are ending too."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={quote(selector)}"
        found: list[Object] = json.loads(self.cluster.plane.ask(path))["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def _prefix(self) -> str:
        return f"{self.namespace}/"

    @contextmanager
    def _client(self) -> Iterator[Any]:
        client = self.s3.client()
        try:
            yield client
        finally:
            client.close()


def prepare(cluster: Cluster, s3: S3Server, namespace: str, shards: Path) -> None:
    """A namespace with the bucket's credentials, and the packed data in the bucket."""
    plane = cluster.plane
    plane.kubectl("create", "namespace", namespace)
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    values = {name: value for name, value in s3.environment().items() if name in names}
    plane.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": namespace},
            "stringData": values,
        }
    )
    client = s3.client()
    files = [*shards.glob("train/**/*"), *shards.glob("val/**/*"), shards / "selection.npy"]
    for path in filter(Path.is_file, files):
        key = f"{namespace}/{path.relative_to(shards)}"
        client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    client.close()


def cluster_options(namespace: str, patch: Path, workers: tuple[int, int, int]) -> tuple[str, ...]:
    """What `submit` is told about data, image and size; workers: fewest, wanted, most."""
    least, wanted, most = workers
    place = f"s3://{BUCKET}/{namespace}"
    return (
        f"--image={SUITE}",
        f"--patch={patch}",
        "--gpus-per-worker=1",
        f"--gpus={wanted}",
        f"--min-gpus={least}",
        f"--max-gpus={most}",
        f"--data={place}/train",
        f"--val={place}/val",
        f"--checkpoints={place}/runs",
        f"data.selection={place}/selection.npy",
        f"job.s3_secret={SECRET}",
        "job.shm_per_gpu_gib=1",
        "job.memory_per_gpu_gib=2",
        "log.audit_dir=/audit",
        *QUICK,
    )


def write_patch(path: Path, audit: Path) -> None:
    """What the job's pods need on this node only: the machine's programs, and less CPU.

    audit: a folder of this machine which the workers may write.
    """
    audit.mkdir(parents=True)
    audit.chmod(0o777)
    worker = with_machine({"containers": [{"name": "pytorch"}]})
    worker["volumes"].append({"name": "audit", "hostPath": {"path": str(audit)}})
    container = worker["containers"][0]
    container["volumeMounts"].append({"name": "audit", "mountPath": "/audit"})
    container["resources"] = {"requests": {"cpu": "100m"}}
    rendezvous = with_machine({"containers": [{"name": "rendezvous"}]})
    documents: list[Mapping[str, Any]] = [
        {
            "kind": "PyTorchJob",
            "spec": {"pytorchReplicaSpecs": {"Worker": {"template": {"spec": worker}}}},
        },
        {"kind": "Job", "spec": {"template": {"spec": rendezvous}}},
    ]
    path.write_text(yaml.safe_dump_all(documents))


def wait_for_workers(run: ClusterRun, count: int, timeout_s: float = 120) -> list[Object]:
    """The workers' pods, once so many are Running and none is ending."""
    ends_at = time.monotonic() + timeout_s
    while time.monotonic() < ends_at:
        pods = run.pods()
        running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
        if len(running) == len(pods) == count:
            return pods
        time.sleep(0.2)
    raise AssertionError(f"not {count} workers after {timeout_s:.0f} s\n{run.tell()}")
