"""Jobs of independent parts: the verbs against a real API server and its own Job controller.

There is no node: `played` writes what a kubelet would.
"""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from launcher import cluster, errors
from launcher.cli.manners import DryRun, Manner, Output
from launcher.cli.submit import Sending, send_indexed
from launcher.render import render
from launcher.request import IndexedRequest, Work
from tests import parts
from tests.cluster import played
from tests.cluster.cli import Cli
from tests.cluster.control_plane import ControlPlane
from tests.unit.launcher.goldens import GIVEN, indexed, indexed_specs

NAME = "parts"
RUN = (
    *("--model", "resnet18", "--gpus", "8", "--image", "registry.example/trainer:1"),
    *("--data", "s3://webvision/train", "--checkpoints", "s3://webvision/runs"),
)


@pytest.fixture
def cli(plane: ControlPlane, namespace: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> Cli:
    return Cli(plane, namespace, tmp_path, capsys, monkeypatch)


def request(name: str = NAME, **said: Any) -> IndexedRequest:
    places = {"image": GIVEN["image"], "checkpoints": GIVEN["checkpoints"], "parallelism": 2}
    return IndexedRequest(name=name, **(places | said))


def submit(cli: Cli, name: str = NAME, work: Work | None = None, **said: Any) -> None:
    send_indexed(request(name, **said), work or parts.work(4), Sending(), Manner())
    cli.capsys.readouterr()


def eventually(state: Callable[[], Any], wanted: Any) -> None:
    ends_at = time.monotonic() + played.PATIENCE_S
    while (found := state()) != wanted:
        assert time.monotonic() < ends_at, f"{found!r}, not {wanted!r}"
        time.sleep(0.1)


def pods(cli: Cli, count: int = 2) -> list[dict[str, Any]]:
    return played.parts(cli.plane, cli.namespace, NAME, count)


# -- submit


@pytest.mark.parametrize("name", ["parts", "parts-gpus"])
def test_the_server_takes_what_is_rendered(cli: Cli, name: str) -> None:
    objects = render(indexed_specs()[name])
    objects[0]["metadata"]["namespace"] = cli.namespace
    objects[0]["metadata"]["labels"].pop("launcher.dev/budget", None)
    (stored,) = cluster.dry_run(cluster.connect("", cli.namespace), objects, print)
    spec = stored["spec"]
    assert spec["completionMode"] == "Indexed"
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == [
        "Ignore", "FailJob", "Ignore"
    ]  # fmt: skip
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert cli.names("job") == []


def test_its_pods_are_let_into_a_restricted_namespace(cli: Cli) -> None:
    restricted = "pod-security.kubernetes.io/enforce=restricted"
    cli.plane.kubectl("label", "namespace", cli.namespace, restricted)
    submit(cli)
    made = pods(cli)
    indexes = [
        pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for pod in made
    ]
    assert indexes == ["0", "1"]
    env = {each["name"]: each for each in made[1]["spec"]["containers"][0]["env"]}
    assert env["RUN_INDEXES"]["value"] == "4"
    assert "job-completion-index" in json.dumps(env["JOB_COMPLETION_INDEX"]["valueFrom"])


def test_submit_lets_it_go_and_a_second_one_is_a_conflict(cli: Cli) -> None:
    submit(cli)
    job = cli.get("job", NAME)
    assert job["spec"]["suspend"] is False
    with pytest.raises(errors.Conflict, match=f"job '{NAME}' exists in namespace"):
        submit(cli)
    assert cli.get("job", NAME)["metadata"]["uid"] == job["metadata"]["uid"]


def test_of_several_that_submit_at_once_one_wins(cli: Cli) -> None:
    troubles = ("none", "once", "always", "wait")
    jobs = cluster.jobs_on(cluster.connect("", cli.namespace))

    def attempt(trouble: str) -> str:
        objects = render(indexed(request(), parts.work(4, trouble)))
        try:
            jobs.submit(objects)
        except errors.Conflict:
            return ""
        return trouble

    with ThreadPoolExecutor(4) as pool:
        won = [each for each in pool.map(attempt, troubles) if each]
    assert len(won) == 1
    container = cli.get("job", NAME)["spec"]["template"]["spec"]["containers"][0]
    (config,) = [each["value"] for each in container["env"] if each["name"] == "RUN_CONFIG"]
    assert f"trouble: {won[0]}\n" in config
    assert cli.get("job", NAME)["spec"]["suspend"] is False


def test_a_name_means_one_job_whatever_its_kind(cli: Cli) -> None:
    submit(cli, "one")
    message = cli.fails(5, "submit", *RUN, "--name", "one")
    assert f"Job 'one' exists in namespace {cli.namespace} and is no job of this kind" in message
    cli.out("submit", *RUN, "--name", "other")
    with pytest.raises(errors.Conflict, match="PyTorchJob 'other' exists"):
        submit(cli, "other")
    with pytest.raises(errors.Conflict, match="Job 'other-rendezvous' exists"):
        submit(cli, "other-rendezvous")
    assert cli.names("job") == ["one", "other-rendezvous"]


def test_dry_run_on_the_server_asks_admission_and_keeps_nothing(cli: Cli) -> None:
    sending = Sending(DryRun.server, output=Output.json)
    send_indexed(request(), parts.work(), sending, Manner())
    (shown,) = json.loads(cli.capsys.readouterr().out)["items"]
    assert (shown["kind"], bool(shown["metadata"]["uid"])) == ("Job", True)
    cli.quota("count/jobs.batch", 0)
    with pytest.raises(errors.Rejected, match="exceeded quota"):
        send_indexed(request(), parts.work(), sending, Manner())
    with pytest.raises(errors.Rejected, match="exceeded quota"):
        submit(cli)
    assert cli.names("job") == []


# -- looking at it


def test_list_shows_it_and_no_part_of_another_job(cli: Cli) -> None:
    cli.out("submit", *RUN, "--name", "elastic")
    submit(cli)
    listed = {each["name"]: each for each in json.loads(cli.out("list", "-o", "json"))["items"]}
    assert sorted(listed) == ["elastic", NAME]
    assert listed[NAME]["indexes"] == {"total": 4, "done": 0, "failed": ""}
    assert listed["elastic"]["indexes"] is None
    assert f"{NAME}" in cli.out("list")


def test_status_counts_indexes_and_an_index_that_fails_is_made_anew(cli: Cli) -> None:
    submit(cli, gpus=1)
    first, second = pods(cli)
    eventually(lambda: cli.state(NAME), "Starting")
    played.run(cli.plane, first)
    played.run(cli.plane, second)
    eventually(lambda: cli.status(NAME)["workers_running"], 2)
    assert cli.state(NAME) == "Running"
    played.end(cli.plane, first)
    played.end(cli.plane, second, 1, "disk full")
    eventually(lambda: cli.status(NAME)["indexes"]["done"], 1)
    eventually(lambda: cli.status(NAME)["restarts"], 1)
    finish(cli)
    found = cli.status(NAME)
    tries = json.loads(cli.kubectl("get", "pods", "-o", "json"))["items"]
    indexes = [p["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for p in tries]
    assert sorted(indexes) == ["0", "1", "1", "2", "3"]
    assert (found["state"], found["indexes"]) == (
        "Succeeded", {"total": 4, "done": 4, "failed": ""}
    )  # fmt: skip
    assert found["ended_at"]
    assert [each["state"] for each in found["workers"]] == ["Succeeded"] * 4
    assert "4/4 indexes done" in cli.out("status", NAME)
    assert cli.out("wait", NAME, "--timeout", "5s") == ""
    uid = cli.get("job", NAME)["metadata"]["uid"]
    submit(cli)
    assert cli.get("job", NAME)["metadata"]["uid"] != uid


def pods_left(cli: Cli) -> list[dict[str, Any]]:
    """Pods that have not ended now."""
    mine = ("-l", f"batch.kubernetes.io/job-name={NAME}")
    found = json.loads(cli.kubectl("get", "pods", *mine, "-o", "json"))["items"]
    return [p for p in found if p["status"].get("phase") not in ("Succeeded", "Failed")]


def finish(cli: Cli) -> None:
    """Lets every pod succeed until the Job is complete."""
    ends_at = time.monotonic() + played.PATIENCE_S
    while cli.state(NAME) != "Succeeded":
        assert time.monotonic() < ends_at, cli.status(NAME)
        for pod in pods_left(cli):
            played.end(cli.plane, pod)
        time.sleep(0.3)


def test_exit_status_two_fails_it_at_once_with_the_programs_words(cli: Cli) -> None:
    submit(cli)
    first, _ = pods(cli)
    played.run(cli.plane, first)
    played.end(cli.plane, first, 2, "fatal: part size (-1) is below 1")
    eventually(lambda: cli.state(NAME), "Failed")
    found = cli.status(NAME)
    assert found["reason"] == "worker-0 ended: fatal: part size (-1) is below 1"
    assert cli.fails(7, "wait", NAME).startswith(f"error: {NAME} ended as Failed: worker-0 ended")


def test_why_its_pods_cannot_be_made_is_one_sentence(cli: Cli) -> None:
    cli.quota("pods", 0)
    submit(cli)
    eventually(lambda: "quota does not allow its pods" in cli.status(NAME)["reason"], True)


def test_a_worker_that_is_not_there_is_told_by_logs(cli: Cli) -> None:
    submit(cli)
    pods(cli)
    message = cli.fails(3, "logs", NAME, "--worker", "7")
    assert "has no worker-7 now (workers: worker-0, worker-1)" in message


# -- changing it


def test_cancel_ends_its_pods_and_resume_goes_on(cli: Cli) -> None:
    submit(cli)
    first, _ = pods(cli)
    played.end(cli.plane, first)
    eventually(lambda: cli.status(NAME)["indexes"]["done"], 1)
    cli.out("cancel", NAME, "--yes")
    assert cli.get("job", NAME)["spec"]["suspend"] is True
    found = cli.status(NAME)
    assert (found["state"], found["indexes"]["done"]) == ("Cancelled", 1)
    assert [each["state"] for each in found["workers"]] == ["Succeeded"]
    cli.out("resume", NAME)
    assert cli.get("job", NAME)["spec"]["suspend"] is False
    pods(cli)
    cli.out("suspend", NAME)
    assert cli.state(NAME) == "Suspended"
    cli.out("resume", NAME)
    finish(cli)
    assert cli.fails(5, "suspend", NAME).startswith(f"error: job '{NAME}' has ended")


def test_scale_changes_how_many_run_at_once(cli: Cli) -> None:
    submit(cli)
    pods(cli, 2)
    cli.out("scale", NAME, "--workers", "4")
    pods(cli, 4)
    cli.out("scale", NAME, "--workers", "1")
    pods(cli, 1)
    assert "between its least (1) and most (4)" in cli.fails(2, "scale", NAME, "--workers", "5")


def test_delete_and_prune_leave_the_parts_of_others_alone(cli: Cli) -> None:
    cli.out("submit", *RUN, "--name", "elastic")
    submit(cli)
    assert "end it first" in cli.fails(5, "delete", NAME, "--yes")
    cli.out("delete", NAME, "--yes", "--force")
    assert cli.names("job") == ["elastic-rendezvous"]
    submit(cli)
    finish(cli)
    assert cli.out("prune", "--yes", "--older-than", "0s") == f"{NAME}\n"
    assert cli.names("job") == ["elastic-rendezvous"]
    assert cli.get("job", "elastic-rendezvous")["spec"].get("suspend") is not True


def test_bundle_and_diff_know_it(cli: Cli) -> None:
    submit(cli)
    first, _ = pods(cli)
    played.run(cli.plane, first)
    out = cli.folder / "b.tar.gz"
    cli.out("bundle", NAME, "--out", str(out))
    with tarfile.open(out) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"status.json", "job.yaml", "pods.yaml", "events.json"} <= names
    assert "rendezvous.yaml" not in names
    api = cluster.connect("", cli.namespace)
    assert cluster.diff(api, render(indexed(request(), parts.work(4)))) == ""
    other = cluster.diff(api, render(indexed(request(parallelism=3), parts.work(4))))
    assert "-  parallelism: 2\n+  parallelism: 3\n" in other
