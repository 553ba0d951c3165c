"""The second renderer: a run of fixed size with a runtime of its own."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import run
from launcher.errors import UsageError
from launcher.render import BACKENDS, pod_templates, problems, render
from launcher.request import Request
from launcher.spec import BACKENDS as NAMES
from tests.unit.launcher.goldens import GIVEN, spec
from tools.derive_crd import CRDS, SOURCES, derive
from trainer.config import TrainConfig, parse


def objects(*overrides: str, **said: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    asked = {"model": "senet154", "name": "a", "gpus": 64, "backend": "trainjob"} | GIVEN | said
    runtime, job = render(spec(Request(**asked, overrides=overrides)))
    return runtime, job


def test_each_backend_of_a_job_file_has_its_renderer() -> None:
    assert set(BACKENDS) == set(NAMES)


def test_the_job_refers_to_its_own_runtime_of_the_same_size() -> None:
    runtime, job = objects()
    assert (runtime["kind"], job["kind"]) == ("TrainingRuntime", "TrainJob")
    assert problems([runtime, job]) == []
    reference = job["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) == (
        "TrainingRuntime",
        runtime["metadata"]["name"],
    )
    assert job["spec"]["trainer"] == {"numNodes": 8, "numProcPerNode": 8}
    assert runtime["spec"]["mlPolicy"] == {"torch": {}, "numNodes": 8}


def test_the_lost_worker_starts_the_whole_group_anew() -> None:
    jobs = objects("job.max_restarts=7")[0]["spec"]["template"]["spec"]
    assert jobs["failurePolicy"] == {"restartStrategy": "BlockingRecreate", "maxRestarts": 7}
    (node,) = jobs["replicatedJobs"]
    assert (node["name"], node["replicas"]) == ("node", 1), "Trainer's webhook asks for both"
    assert node["template"]["metadata"]["labels"] == {
        "trainer.kubeflow.org/trainjob-ancestor-step": "trainer"
    }
    assert node["template"]["spec"]["backoffLimit"] == 0
    assert node["template"]["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_its_pod_is_the_elastic_workers_but_for_the_meeting() -> None:
    elastic = next(pod_templates(render(spec(Request(model="senet154", name="a", **GIVEN)))[2]))[1]
    fixed = next(pod_templates(objects(gpus=None)[0]))[1]
    ours, theirs = fixed["spec"]["containers"][0], elastic["spec"]["containers"][0]
    names = [entry["name"] for entry in ours["env"]]
    theirs_alone = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR"}
    assert not theirs_alone & set(names), "Trainer sets them"
    assert {"name": "PET_RDZV_CONF", "value": "timeout=1800"} in ours["env"]
    lost = {entry["name"] for entry in theirs["env"]} - set(names)
    assert lost == {"PET_LOCAL_ADDR"}
    config = next(entry["value"] for entry in ours["env"] if entry["name"] == "RUN_CONFIG")
    assert parse(TrainConfig, config, source="x").model.name == "senet154"
    assert ours["name"] == "node"
    assert (ours["command"], theirs["command"]) == (["torchrun"], ["python", "-m", "trainer.agent"])
    for key in ("args", "image", "resources", "securityContext", "volumeMounts"):
        assert ours[key] == theirs[key]
    assert fixed["metadata"] == elastic["metadata"]


@pytest.mark.parametrize(
    ("asked", "policy", "annotations"),
    [
        (("volcano",), {"volcano": {}}, None),
        (("volcano", "queue=q"), {"volcano": {}}, {"scheduling.volcano.sh/queue-name": "q"}),
        (("scheduler-plugins",), {"coscheduling": {}}, None),
        (("scheduler-plugins", "timeout_s=9"), {"coscheduling": {"scheduleTimeoutSeconds": 9}},
         None),
        (("kai", "queue=q"), None, None),
    ],
)  # fmt: skip
def test_gangs(
    asked: tuple[str, ...], policy: dict[str, Any] | None, annotations: dict[str, str] | None
) -> None:
    words = [f"job.gang.scheduler={asked[0]}", *(f"job.gang.{word}" for word in asked[1:])]
    runtime, job = objects(*words)
    assert runtime["spec"].get("podGroupPolicy") == policy
    metadata = runtime["spec"]["template"].get("metadata", {})
    assert metadata.get("annotations") == annotations
    assert ("kai.scheduler/queue" in job["metadata"]["labels"]) == (asked[0] == "kai")


def test_queue_and_deadline_stand_on_the_job() -> None:
    runtime, job = objects("job.deadline_s=3600", queue="train")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "train"
    assert job["spec"]["activeDeadlineSeconds"] == 3600
    assert "kueue" not in str(runtime)
    assert "suspend" not in str((runtime, job))


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"min_gpus": 32}, r"--min-gpus is 32.*64 GPUs.*not elastic.*pytorchjob"),
        ({"max_gpus": 96}, r"--max-gpus is 96.*64 GPUs"),
        ({"overrides": ("job.min_gpus=8",)}, r"job.min_gpus is 8"),
        ({"backend": "jobset"}, r"--backend 'jobset' is unknown; allowed are pytorchjob, trainjob"),
        ({"gpus": None, "local": True}, "backend trainjob goes without --local"),
    ],
)
def test_what_a_fixed_size_cannot_mean_is_refused(said: dict[str, Any], word: str) -> None:
    asked = {"model": "senet154", "name": "a", "gpus": 64, "backend": "trainjob"} | GIVEN | said
    with pytest.raises(UsageError, match=word):
        spec(Request(**asked))


def test_the_same_size_said_twice_is_no_contradiction() -> None:
    assert objects(min_gpus=64, max_gpus=64) == objects()


@pytest.mark.parametrize("source", SOURCES)
def test_the_packaged_schemas_are_those_of_the_crds(source: str) -> None:
    import gzip

    name, text = derive(CRDS / f"{source}.yaml.gz", SOURCES[source])
    packaged = resources.files("launcher.render").joinpath(name).read_bytes()
    assert json.loads(gzip.decompress(packaged)) == json.loads(text)
    notice = Path(str(resources.files("launcher.render"))) / "NOTICE"
    assert name in notice.read_text(encoding="utf-8")


def test_values_outside_a_crds_bounds_are_named() -> None:
    runtime, job = objects()
    job["spec"]["activeDeadlineSeconds"] = 0
    runtime["spec"]["template"]["spec"]["failurePolicy"]["restartStrategy"] = "Never"
    assert problems([runtime, job]) == [
        "TrainingRuntime a: spec.template.spec.failurePolicy.restartStrategy is 'Never', but must "
        "be one of Recreate, BlockingRecreate, InPlaceRestart",
        "TrainJob a: spec.activeDeadlineSeconds is 0, but must be at least 1",
    ]


def test_backend_and_patches_are_flags(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, field in (("one", "ttlSecondsAfterFinished: 5"), ("two", "network: {subdomain: b}")):
        spec_of_jobset = f"spec: {{template: {{spec: {{{field}}}}}}}"
        (tmp_path / f"{name}.yaml").write_text(f"kind: TrainingRuntime\n{spec_of_jobset}\n")
    places = ["--image", "i", "--data", "s3://a/b", "--checkpoints", "s3://a/c"]
    command = ["render", "--model", "senet154", *places, "--backend", "trainjob", "-o", "json"]
    files = [str(tmp_path / f"{name}.yaml") for name in ("one", "two")]
    assert run([*command, "--patch", files[0], "--patch", files[1]]) == 0
    runtime, job = json.loads(capfd.readouterr().out)["items"]
    jobset = runtime["spec"]["template"]["spec"]
    assert (jobset["ttlSecondsAfterFinished"], jobset["network"]) == (5, {"subdomain": "b"})
    assert job["kind"] == "TrainJob"
    assert run([*command, "--patch", str(tmp_path / "none.yaml")]) == 2
    assert "cannot read the patch" in capfd.readouterr().err
