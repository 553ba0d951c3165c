"""A job of independent parts on the real node: pods that fail, are killed and deleted, and logs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from launcher.cli.manners import Manner
from launcher.cli.submit import Sending, send_indexed
from launcher.request import IndexedRequest
from tests import parts
from tests.cluster.cluster import Cluster
from tests.cluster.images import SUITE, with_machine
from tests.cluster.tools import ROOT
from tests.e2e.cluster_runs import SECRET, prepare
from tests.e2e.runs import launcher
from tests.servers import BUCKET, S3Server

NAME = "parts"
PATIENCE_S = 180.0


@pytest.fixture
def namespace(
    node: Cluster, node_s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A namespace with the bucket's credentials; it goes at the test's end."""
    monkeypatch.setenv("KUBECONFIG", str(node.plane.kubeconfig))
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    prepare(node, node_s3, name, tmp_path)
    yield name
    node.plane.kubectl("delete", "namespace", name, "--timeout=60s")


def submit(namespace: str, folder: Path, trouble: str, troubled: tuple[int, ...]) -> None:
    """Starts a job of four parts, two at once, which write into the bucket."""
    pod = with_machine({"containers": [{"name": "program"}]})
    pod["volumes"].append({"name": "tests", "hostPath": {"path": str(ROOT / "tests")}})
    (container,) = pod["containers"]
    container["volumeMounts"].append(
        {"name": "tests", "mountPath": str(ROOT / "tests"), "readOnly": True}
    )
    patch = folder / "patch.yaml"
    patch.write_text(yaml.safe_dump({"kind": "Job", "spec": {"template": {"spec": pod}}}))
    request = IndexedRequest(
        name=NAME,
        image=SUITE,
        namespace=namespace,
        checkpoints=f"s3://{BUCKET}/{namespace}",
        parallelism=2,
        gpus=1,
        cpus=1,
        memory_gib=2,
        overrides=(
            f"job.s3_secret={SECRET}", "job.shm_per_gpu_gib=1", f"job.env.PYTHONPATH={ROOT}",
        ),
        patches=(str(patch),),
    )  # fmt: skip
    send_indexed(request, parts.work(4, trouble, troubled), Sending(), Manner())


def until(look: Callable[[], object], what: Callable[[], object]) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < ends_at, what()
        time.sleep(0.3)


class Bucket:
    """What the parts have written."""

    def __init__(self, s3: S3Server, namespace: str) -> None:
        self._s3, self._prefix = s3, f"{namespace}/{NAME}/"

    def keys(self, start: str) -> list[str]:
        client = self._s3.client()
        found = client.list_objects_v2(Bucket=BUCKET, Prefix=self._prefix + start)
        client.close()
        return [each["Key"].removeprefix(self._prefix) for each in found.get("Contents", ())]

    def put(self, key: str) -> None:
        client = self._s3.client()
        client.put_object(Bucket=BUCKET, Key=self._prefix + key, Body=b"")
        client.close()


def test_what_is_lost_is_made_anew_and_every_part_is_written_once(
    node: Cluster, node_s3: S3Server, namespace: str, tmp_path: Path
) -> None:
    here, bucket = ("-n", namespace), Bucket(node_s3, namespace)

    def tell() -> str:
        return launcher("status", NAME, *here, check=False).stdout

    def names() -> dict[str, str]:
        """Names of the pods that run, by index."""
        told = node.plane.kubectl("-n", namespace, "get", "pods", "-o", "json")
        label = "batch.kubernetes.io/job-completion-index"
        return {
            pod["metadata"]["labels"][label]: pod["metadata"]["name"]
            for pod in json.loads(told)["items"]
            if pod["status"].get("phase") == "Running"
        }

    submit(namespace, tmp_path, "wait", (0, 1))
    followed = tmp_path / "followed"
    with followed.open("w") as out:
        command = (sys.executable, "-m", "launcher", "logs", "-f", NAME, *here)
        following = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        until(lambda: len(bucket.keys("try-")) == 2, tell)
        until(lambda: names().keys() == {"0", "1"}, tell)  # the kubelet tells it later than S3
        node.plane.kubectl("-n", namespace, "delete", "pod", names()["0"], "--wait=true")
        until(lambda: len(bucket.keys("try-0-")) == 2, tell)
        bucket.put("go")
        done = launcher("wait", NAME, *here, "--timeout", "180s", check=False)
        assert done.returncode == 0, f"{done.stderr}\n{tell()}"
        assert "4/4 indexes done" in tell()
        assert "Restarts:    0\n" in tell()  # it left on request, which is no failure
        assert sorted(bucket.keys("part-")) == [f"part-{index}" for index in range(4)]
        until(lambda: following.poll() is not None, followed.read_text)
    finally:
        following.kill()
        following.wait()
    lines = followed.read_text().splitlines()
    assert "worker-0 | index 0 of 4, try-0-0" in lines
    assert "worker-0 | index 0 of 4, try-0-1" in lines
    assert "worker-3 | index 3 of 4, try-3-0" in lines


def test_a_part_that_fails_has_its_words_before_and_after(
    node: Cluster, node_s3: S3Server, namespace: str, tmp_path: Path
) -> None:
    here, bucket = ("-n", namespace), Bucket(node_s3, namespace)

    def status() -> dict[str, object]:
        found: dict[str, object] = json.loads(launcher("status", NAME, *here, "-o", "json").stdout)
        return found

    submit(namespace, tmp_path, "once", (1,))
    done = launcher("wait", NAME, *here, "--timeout", "180s", check=False)
    assert done.returncode == 0, f"{done.stderr}\n{status()}"
    assert status()["restarts"] == 1
    assert sorted(bucket.keys("try-1-")) == ["try-1-0", "try-1-1"]
    now = launcher("logs", NAME, *here, "--worker", "1").stdout
    assert now == "index 1 of 4, try-1-1\n"
    previous = launcher("logs", NAME, *here, "--worker", "1", "--previous").stdout
    assert "RuntimeError: index 1 stumbles" in previous
    assert launcher("logs", NAME, *here, "--worker", "0").stdout == "index 0 of 4, try-0-0\n"
