"""Every verb on jobs of a cluster, against a real API server, operator and webhook.

There is no node: `played` writes what a kubelet would.
"""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import played
from tests.cluster.cli import Cli
from tests.cluster.control_plane import ControlPlane

NAME = "elastic"
GIVEN = (
    *("--model", "senet154", "--gpus", "16", "--min-gpus", "8", "--max-gpus", "24"),
    *("--image", "registry.example/trainer:1", "--name", NAME),
    *("--data", "s3://webvision/train", "--val", "s3://webvision/val"),
    *("--checkpoints", "s3://webvision/runs"),
)


@pytest.fixture
def cli(plane: ControlPlane, namespace: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> Cli:
    return Cli(plane, namespace, tmp_path, capsys, monkeypatch)


def eventually(state: Callable[[], Any], wanted: Any) -> None:
    """Waits until the state is as wanted; the operator needs a moment."""
    ends_at = time.monotonic() + played.PATIENCE_S
    while (found := state()) != wanted:
        assert time.monotonic() < ends_at, f"{found!r}, not {wanted!r}"
        time.sleep(0.1)


# -- submit


def test_submit_makes_the_job_own_its_rendezvous_and_lets_it_go(cli: Cli) -> None:
    assert cli.out("submit", *GIVEN) == f"{NAME}\n"
    job = cli.get("pytorchjob", NAME)
    assert job["spec"]["runPolicy"]["suspend"] is False
    for kind in ("job", "service"):
        (owner,) = cli.get(kind, f"{NAME}-rendezvous")["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("PyTorchJob", job["metadata"]["uid"])
    assert len(played.workers(cli.plane, cli.namespace, NAME, 2)) == 2


def test_a_second_submit_of_a_live_job_is_a_conflict(cli: Cli) -> None:
    cli.out("submit", *GIVEN)
    uid = cli.get("pytorchjob", NAME)["metadata"]["uid"]
    assert cli.fails(5, "submit", *GIVEN).startswith(f"error: job '{NAME}' exists in namespace")
    assert cli.get("pytorchjob", NAME)["metadata"]["uid"] == uid


def test_of_two_launchers_that_submit_the_same_name_at_once_one_wins(cli: Cli) -> None:
    rates = ("0.1", "0.2", "0.3", "0.4")
    tries = [cli.start("submit", *GIVEN, f"optim.lr={rate}") for rate in rates]
    ends = [(process.communicate(timeout=60), process.returncode) for process in tries]
    winners = [rate for rate, (_, code) in zip(rates, ends, strict=True) if code == 0]
    assert len(winners) == 1, ends
    assert sorted(code for _, code in ends) == [0, 5, 5, 5], ends
    container = cli.get("pytorchjob", NAME)["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    (config,) = [
        entry["value"]
        for entry in container["spec"]["containers"][0]["env"]
        if entry["name"] == "RUN_CONFIG"
    ]
    assert f"lr: {winners[0]}" in config
    assert cli.get("pytorchjob", NAME)["spec"]["runPolicy"]["suspend"] is False
    assert cli.get("job", f"{NAME}-rendezvous")["metadata"]["ownerReferences"]


def test_a_submit_that_fails_half_way_takes_back_what_it_made(cli: Cli) -> None:
    cli.quota("count/services", 0)
    message = cli.fails(1, "submit", *GIVEN)
    assert "exceeded quota" in message
    assert "count/services" in message
    eventually(lambda: cli.names("pytorchjob"), [])
    assert cli.names("service") == []
    eventually(lambda: cli.names("job"), [])


def test_dry_run_on_the_server_asks_admission_and_keeps_nothing(cli: Cli) -> None:
    answer = cli.out("submit", *GIVEN, "--dry-run=server", "-o", "json")
    kinds = [thing["kind"] for thing in json.loads(answer)["items"]]
    assert kinds == ["Job", "Service", "PyTorchJob"]
    assert json.loads(answer)["items"][2]["metadata"]["uid"]  # as the server would store it
    assert cli.names("pytorchjob") == []
    cli.quota("count/jobs.batch", 0)
    assert "exceeded quota" in cli.fails(1, "submit", *GIVEN, "--dry-run=server")


def test_a_refusal_of_the_webhook_is_one_line_that_names_it(cli: Cli) -> None:
    from launcher import cluster
    from launcher.errors import Rejected
    from launcher.render import render
    from launcher.request import Request
    from tests.unit.launcher import goldens

    objects = render(goldens.spec(Request(model="senet154", name=NAME, **goldens.GIVEN)))
    container = objects[2]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    container["containers"][0]["name"] = "other"
    api = cluster.connect("", cli.namespace)
    with pytest.raises(Rejected) as caught:
        cluster.jobs_on(api).submit(objects)
    assert "validator.pytorchjob.training-operator.kubeflow.org" in str(caught.value)
    assert "at least one container with name pytorch" in str(caught.value)
    assert cli.names("job") == []


def test_an_ended_job_is_submitted_anew_by_the_same_command(cli: Cli) -> None:
    cli.out("submit", *GIVEN)
    first = cli.get("pytorchjob", NAME)["metadata"]["uid"]
    pods = played.workers(cli.plane, cli.namespace, NAME, 2)
    for pod in pods:
        played.run(cli.plane, pod)
    played.end(cli.plane, pods[0])  # the operator ends the other
    eventually(lambda: cli.state(NAME), "Succeeded")
    assert cli.out("wait", NAME, "--timeout", "5s") == ""
    assert cli.out("submit", *GIVEN) == f"{NAME}\n"
    assert cli.get("pytorchjob", NAME)["metadata"]["uid"] != first


# -- looking at jobs


def test_status_counts_workers_against_the_least(cli: Cli) -> None:
    cli.out("submit", *GIVEN, "--max-gpus", "24", "job.min_gpus=16", "--min-gpus", "16")
    pods = played.workers(cli.plane, cli.namespace, NAME, 2)
    eventually(lambda: cli.state(NAME), "Starting")
    played.run(cli.plane, pods[0])
    eventually(lambda: cli.status(NAME)["workers_running"], 1)
    assert "Starting 1/2" in cli.out("status", NAME)
    played.run(cli.plane, pods[1])
    eventually(lambda: cli.state(NAME), "Running")
    found = cli.status(NAME)
    assert (found["gpus"], found["namespace"], found["backend"]) == (
        16,
        cli.namespace,
        "kubernetes",
    )
    assert [worker["state"] for worker in found["workers"]] == ["Running", "Running"]
    assert [job["state"] for job in json.loads(cli.out("list", "-o", "json"))["items"]] == [
        "Running"
    ]


SECRET = 'secret "s3" not found'
TOLD: dict[str, tuple[Callable[[ControlPlane, Any], None], tuple[str, ...]]] = {
    "image": (
        lambda plane, pod: played.wait_for(plane, pod, "ImagePullBackOff", "not found"),
        ("worker-0 cannot get its image registry.example/trainer:1", "not found", "pull secret"),
    ),
    "secret": (
        lambda plane, pod: played.wait_for(plane, pod, "CreateContainerConfigError", SECRET),
        ("worker-0 cannot be started", SECRET),
    ),
    "memory": (
        lambda plane, pod: played.write(
            plane,
            pod,
            phase="Running",
            containerStatuses=played.container(
                {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                restarts=2,
                last=played.ended(137, reason="OOMKilled"),
            ),
        ),
        ("worker-0", "out of memory", "256Gi", "job.memory_per_gpu_gib"),
    ),
    "own words": (
        lambda plane, pod: played.write(
            plane,
            pod,
            phase="Running",
            containerStatuses=played.container(
                {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                restarts=1,
                last=played.ended(1, message="fatal: data.train has 5 classes, but"),
            ),
        ),
        ("worker-0 ends again and again: fatal: data.train has 5 classes",),
    ),
}


@pytest.mark.parametrize("case", TOLD)
def test_status_tells_why_in_one_sentence(case: str, cli: Cli) -> None:
    make, words = TOLD[case]
    cli.out("submit", *GIVEN)
    pod = played.workers(cli.plane, cli.namespace, NAME, 2)[0]
    played.run(cli.plane, pod)  # so it is placed
    make(cli.plane, pod)
    said = cli.status(NAME)["reason"] or cli.status(NAME)["workers"][0]["reason"]
    for word in words:
        assert word in said
    assert "\n" not in said


def test_status_tells_that_no_node_has_room(cli: Cli) -> None:
    cli.out("submit", *GIVEN)
    eventually(lambda: "cannot be placed" in cli.status(NAME)["reason"], True)


def test_status_tells_the_quota_that_keeps_pods_away(cli: Cli) -> None:
    cli.quota("requests.nvidia.com/gpu", 0)
    cli.out("submit", *GIVEN)
    eventually(lambda: "quota does not allow its pods" in cli.status(NAME)["reason"], True)
    assert "requests.nvidia.com/gpu" in cli.status(NAME)["reason"]


def test_status_tells_that_pod_security_keeps_pods_away(cli: Cli) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    cli.plane.kubectl("label", "namespace", cli.namespace, label)
    from launcher import cluster
    from launcher.render import render
    from launcher.request import Request
    from tests.unit.launcher import goldens

    objects = render(goldens.spec(Request(model="senet154", name=NAME, **goldens.GIVEN)))
    pod = objects[2]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    pod["hostNetwork"] = True
    cluster.jobs_on(cluster.connect("", cli.namespace)).submit(objects)
    eventually(lambda: "pod security does not allow" in cli.status(NAME)["reason"], True)


def test_an_unknown_job_is_told_with_those_of_a_like_name(cli: Cli) -> None:
    cli.out("submit", *GIVEN)
    assert "did you mean elastic?" in cli.fails(3, "status", "elastik")
    assert cli.fails(3, "logs", "nothing").startswith("error: no job 'nothing'")


def test_list_of_all_namespaces_and_names_for_completion(cli: Cli) -> None:
    cli.out("submit", *GIVEN)
    assert NAME in cli.out("list", "-A")
    assert cli.out("list", "-o", "name") == f"pytorchjob.kubeflow.org/{NAME}\n"
    # It answers within 150 ms or not at all, and this machine may be busy.
    eventually(lambda: NAME in cli.complete("launcher", "status", "el"), True)


def test_wait_follows_to_the_end_and_tells_each_change(cli: Cli) -> None:
    cli.out("submit", *GIVEN)
    process = cli.start("wait", NAME, "--timeout", "60s")
    pods = played.workers(cli.plane, cli.namespace, NAME, 2)
    for pod in pods:
        played.run(cli.plane, pod)
    eventually(lambda: cli.state(NAME), "Running")
    time.sleep(1)
    played.end(cli.plane, pods[0])
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 0, talk
    assert f"{NAME}: Running, 2 of 2 workers" in talk
    assert f"{NAME}: Succeeded" in talk.splitlines()[-1]
    assert cli.fails(6, "wait", cli.fresh(), "--timeout", "1s")


# -- changing jobs


def test_cancel_suspend_resume_and_delete(cli: Cli) -> None:
    cli.out("submit", *GIVEN)
    played.workers(cli.plane, cli.namespace, NAME, 2)
    cli.out("suspend", NAME)
    assert cli.state(NAME) == "Suspended"
    assert played.workers(cli.plane, cli.namespace, NAME, 0) == []
    assert cli.get("job", f"{NAME}-rendezvous")["spec"]["suspend"] is True
    cli.out("resume", NAME)
    assert cli.get("job", f"{NAME}-rendezvous")["spec"]["suspend"] is False
    played.workers(cli.plane, cli.namespace, NAME, 2)
    cli.fails(5, "delete", NAME, "--yes")
    cli.out("cancel", NAME, "--yes")
    assert cli.state(NAME) == "Cancelled"
    assert cli.fails(7, "wait", NAME)
    cli.out("resume", NAME)
    eventually(lambda: cli.state(NAME), "Starting")
    cli.out("delete", NAME, "--yes", "--force")
    for kind in ("pytorchjob", "job", "service", "pod"):
        eventually(lambda kind=kind: cli.names(kind), [])


def test_scale_within_bounds_changes_the_replicas(cli: Cli) -> None:
    cli.out("submit", *GIVEN)
    cli.out("scale", NAME, "--workers", "3")
    assert len(played.workers(cli.plane, cli.namespace, NAME, 3)) == 3
    cli.out("scale", NAME, "--workers", "1")
    assert len(played.workers(cli.plane, cli.namespace, NAME, 1)) == 1
    message = cli.fails(2, "scale", NAME, "--workers", "4")
    assert "least (1) and most (3)" in message


def test_prune_deletes_ended_jobs_that_are_old_enough(cli: Cli) -> None:
    cli.out("submit", *GIVEN)
    cli.out("cancel", NAME, "--yes")
    running = cli.fresh()
    assert cli.out("prune", "--yes") == ""  # none is 7 days old
    assert cli.out("prune", "--yes", "--older-than", "0s") == f"{NAME}\n"
    assert cli.names("pytorchjob") == [running]


# -- looking deeper


def test_diff_shows_what_a_submit_would_change(cli: Cli) -> None:
    assert "(absent)" in cli.fails(1, "diff", *GIVEN, stream="out")
    cli.out("submit", *GIVEN)
    assert cli.out("diff", *GIVEN) == ""
    changed = cli.fails(1, "diff", *GIVEN, "optim.lr=0.123", stream="out")
    lines = [line for line in changed.splitlines() if line.startswith(("+ ", "- "))]
    assert [line.split()[1:] for line in lines] == [["lr:", "0.45"], ["lr:", "0.123"]]
    assert cli.names("pytorchjob") == [NAME]  # nothing was made
    cli.fails(2, "diff", "--model", "nothing")


def test_top_counts_gpus_by_job_and_node(cli: Cli) -> None:
    cli.out("submit", *GIVEN, "--budget", "webvision")
    played.workers(cli.plane, cli.namespace, NAME, 2)
    found = json.loads(cli.out("top", "-o", "json"))
    assert found["jobs"] == [
        {
            "namespace": cli.namespace,
            "name": NAME,
            "budget": "webvision",
            "pods": 2,
            "gpus": 0,
            "waiting": 16,
        }
    ]


def test_bundle_gathers_everything_but_secrets(cli: Cli) -> None:
    cli.out("submit", *GIVEN, "job.s3_secret=s3")
    env = [{"name": "MY_API_KEY", "value": "hunter2"}, {"name": "PLAIN", "value": "seen"}]
    eventually(lambda: "SuccessfulCreatePod" in cli.out("status", NAME), True)
    job = cli.get("pytorchjob", NAME)
    container = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    path = "/spec/pytorchReplicaSpecs/Worker/template/spec/containers/0/env"
    patch = [{"op": "replace", "path": path, "value": container["env"] + env}]
    cli.kubectl("patch", "pytorchjob", NAME, "--type=json", "-p", json.dumps(patch))
    target = cli.folder / "b.tar.gz"
    assert cli.out("bundle", NAME, "--out", str(target)) == f"{target}\n"
    with tarfile.open(target) as archive:
        texts = {
            entry.name: archive.extractfile(entry).read().decode()  # type: ignore[union-attr]
            for entry in archive.getmembers()
        }
    files = ("status.json", "pytorchjob.yaml", "rendezvous.yaml", "pods.yaml", "events.json")
    assert {f"{NAME}/{each}" for each in files} <= set(texts)
    whole = "\n".join(texts.values())
    assert "hunter2" not in whole
    assert "MY_API_KEY" in whole
    assert "seen" in texts[f"{NAME}/pytorchjob.yaml"]
    assert "SuccessfulCreatePod" in texts[f"{NAME}/events.json"]


def test_doctor_asks_the_cluster(cli: Cli) -> None:
    _, out, _ = cli("doctor", "-o", "json")
    found = {check["name"]: check for check in json.loads(out)["checks"]}
    assert found["cluster"]["result"] == "ok"
    assert "v1.34.4" in found["cluster"]["detail"]
    assert found["operator"]["result"] == "ok"
    assert found["rights"]["result"] == "ok"
    assert found["nodes"]["result"] == "warning"  # this control plane has none
