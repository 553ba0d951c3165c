"""Objects of a job: golden, valid by the CRD, and with each default that a pain taught."""

from __future__ import annotations

import copy
import gzip
import json
from dataclasses import replace
from importlib import resources
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.errors import UsageError
from launcher.render import pod_templates, problems, render, to_json, to_yaml
from launcher.request import Request
from launcher.spec import BUDGET_LABEL, CHECKPOINTS_ANNOTATION, JOB_LABEL, MODEL_ANNOTATION
from tests.unit.launcher.goldens import FOLDER, GIVEN, indexed_specs, rendered, requests, spec
from trainer.config import parse

NAMES = sorted(requests())


def objects(**said: Any) -> list[dict[str, Any]]:
    return render(spec(Request(**({"model": "senet154", "name": "a", "gpus": 64} | GIVEN | said))))


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    template = (
        job["spec"].get("template") or (job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"])
    )
    return template["spec"]


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    env = pod["containers"][0]["env"]
    found = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in env}
    assert len(found) == len(env), "a variable stands twice"
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_renders_to_its_golden_file(name: str) -> None:
    golden = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert rendered(requests()[name]) == golden, "python -m tests.unit.launcher.goldens rewrites"


def test_no_golden_file_is_left_over() -> None:
    made = sorted([*NAMES, *indexed_specs()])
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == made


@pytest.mark.parametrize("name", NAMES)
def test_objects_are_valid_and_their_run_reads_back(name: str) -> None:
    job = spec(requests()[name])
    made = render(job)
    kinds = {
        "pytorchjob": ["Job", "Service", "PyTorchJob"],
        "trainjob": ["TrainingRuntime", "TrainJob"],
    }
    assert [thing["kind"] for thing in made] == kinds[job.job.backend]
    assert problems(made) == []
    templates = [template for thing in made for _, template in pod_templates(thing)]
    configs = [environment(template["spec"]).get("RUN_CONFIG") for template in templates]
    (text,) = [text for text in configs if text]
    assert parse(type(job.run), text, source="x") == job.run


def test_rendering_is_pure() -> None:
    before = objects()
    before[2]["spec"]["elasticPolicy"]["rdzvConf"].clear()
    assert objects() != before
    assert objects() == objects()


def test_text_reads_back_and_shows_the_run_as_a_block() -> None:
    made = objects()
    assert list(yaml.safe_load_all(to_yaml(made))) == made
    assert json.loads(to_json(made))["items"] == made
    assert "value: |\n" in to_yaml(made)


def test_no_worker_is_special() -> None:
    rendezvous, service, job = objects()
    policy = job["spec"]["elasticPolicy"]
    conf = {entry["key"]: entry["value"] for entry in policy["rdzvConf"]}
    port = service["spec"]["ports"][0]
    labels = rendezvous["spec"]["template"]["metadata"]["labels"]
    assert policy["rdzvHost"] == service["metadata"]["name"] == "a-rendezvous"
    assert policy["rdzvPort"] == port["port"] == 29400
    assert port["targetPort"] == pod_of(rendezvous)["containers"][0]["ports"][0]["name"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert not service["spec"]["selector"].items() <= (
        job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["metadata"]["labels"].items()
    )
    assert int(conf["join_timeout"]) > 300, "the kubelet's longest back-off"
    env = environment(pod_of(job))
    assert env["PET_LOCAL_ADDR"] == {"fieldRef": {"fieldPath": "status.podIP"}}


def test_disruptions_do_not_fail_the_rendezvous() -> None:
    body = objects()[0]["spec"]
    first, second = body["podFailurePolicy"]["rules"]
    assert first == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert second["onExitCodes"]["values"] == [143]
    assert second["onExitCodes"]["containerName"] == pod_of(objects()[0])["containers"][0]["name"]
    assert pod_of(objects()[0])["restartPolicy"] == "Never", "the policy asks for it"
    assert body["backoffLimit"] >= 1000


def test_sizes_stand_where_operator_and_gang_read_them() -> None:
    body = objects(min_gpus=16, max_gpus=96)[2]["spec"]
    worker = body["pytorchReplicaSpecs"]["Worker"]
    assert (body["elasticPolicy"]["minReplicas"], body["elasticPolicy"]["maxReplicas"]) == (2, 12)
    assert body["runPolicy"]["schedulingPolicy"]["minAvailable"] == 2
    assert worker["replicas"] == 8
    assert body["nprocPerNode"] == "8"
    resources_of = worker["template"]["spec"]["containers"][0]["resources"]
    assert resources_of["limits"]["nvidia.com/gpu"] == "8"
    assert resources_of["requests"]["nvidia.com/gpu"] == "8"


def test_what_operator_defaults_would_break_is_set() -> None:
    body = objects()[2]["spec"]
    worker, pod = body["pytorchReplicaSpecs"]["Worker"], pod_of(objects()[2])
    assert list(body["pytorchReplicaSpecs"]) == ["Worker"]
    assert worker["restartPolicy"] == "OnFailure"
    assert body["runPolicy"]["cleanPodPolicy"] == "Running"
    assert body["elasticPolicy"]["maxRestarts"] >= 100
    assert "metrics" not in body["elasticPolicy"], "no autoscaler"
    assert "suspend" not in body["runPolicy"]
    shutdown_s = int(environment(pod)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert shutdown_s == 240 < pod["terminationGracePeriodSeconds"] == 300
    shm = next(volume for volume in pod["volumes"] if volume["name"] == "dshm")
    assert shm["emptyDir"]["medium"] == "Memory"
    text = to_yaml(objects())
    assert not any(word in text for word in ("readinessProbe", "ExitCode\n", "Master", "Autoscal"))


@pytest.mark.parametrize("kind", [0, 2], ids=["rendezvous", "worker"])
def test_pods_keep_the_restricted_profile(kind: int) -> None:
    pod = pod_of(objects()[kind])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
    assert {"emptyDir"} == {kind for volume in pod["volumes"] for kind in volume} - {"name"}


def test_labels_say_who_pays() -> None:
    made = objects(budget="webvision", stage="finetune", queue="train", namespace="ml")
    template = made[2]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    for metadata in (made[2]["metadata"], template["metadata"]):
        assert metadata["labels"][BUDGET_LABEL] == "webvision"
        assert metadata["labels"][JOB_LABEL] == "a"
    assert (
        made[2]["metadata"]["annotations"]
        | {
            MODEL_ANNOTATION: "senet154",
            CHECKPOINTS_ANNOTATION: "s3://webvision/runs/a",
        }
        == made[2]["metadata"]["annotations"]
    )
    assert {thing["metadata"]["namespace"] for thing in made} == {"ml"}
    queued = [thing for thing in made if "kueue.x-k8s.io/queue-name" in str(thing)]
    assert queued == [made[2]], "the rendezvous stays out of the quota"


def test_s3_credentials_are_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-show")
    made = objects(overrides=("job.s3_secret=s3",))
    secret = environment(pod_of(made[2]))["AWS_SECRET_ACCESS_KEY"]
    assert secret["secretKeyRef"] | {"optional": False} == {
        "name": "s3", "key": "AWS_SECRET_ACCESS_KEY", "optional": False,
    }  # fmt: skip
    assert "do-not-show" not in to_yaml(made)


def test_on_this_machine_nothing_of_a_pods_file_system_is_left() -> None:
    made = render(spec(Request(model="resnet18", name="a", local=True, data="file:///d")))
    pod = pod_of(made[2])
    assert made[2]["spec"]["nprocPerNode"] == "1"
    assert "resources" not in pod["containers"][0]
    assert not {"TMPDIR", "NCCL_SOCKET_IFNAME", "OMP_NUM_THREADS"} & set(environment(pod))
    assert "/scratch" not in to_yaml(made)
    assert "metrics_port: 0" in environment(pod)["RUN_CONFIG"], "two runs would meet at one port"


def test_a_run_too_large_for_a_variable_is_refused() -> None:
    job = spec(Request(model="senet154", name="a", **GIVEN))
    data = replace(job.run.data, selection="s3://a/" + "x" * 130_000)
    with pytest.raises(UsageError, match=r"RUN_CONFIG.*122880"):
        render(replace(job, run=replace(job.run, data=data)))


def closed(node: Any) -> Any:
    """The packaged schema as jsonschema takes it, closed to unknown fields."""
    if isinstance(node, list):
        return [closed(child) for child in node]
    if not isinstance(node, dict):
        return node
    made = {key: closed(child) for key, child in node.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made["type"] = ["integer", "string"]
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made


@pytest.fixture(scope="module")
def judge() -> jsonschema.Draft202012Validator:
    packaged = resources.files("launcher.render").joinpath("pytorchjob-v1.schema.json.gz")
    schema = closed(json.loads(gzip.decompress(packaged.read_bytes())))
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Each place in a tree."""
    children = (
        node.items() if isinstance(node, dict)
        else enumerate(node) if isinstance(node, list) else ()
    )  # fmt: skip
    return [path, *(found for key, child in children for found in paths(child, (*path, key)))]


JOB = objects(overrides=("job.s3_secret=s3",))[2]
PLACES = [path for path in paths(JOB) if path and path[0] not in ("metadata", "kind")]


@settings(max_examples=150)
@given(
    place=st.sampled_from(PLACES),
    change=st.one_of(
        st.sampled_from(["remove", "rename"]),
        st.sampled_from([None, True, 3, -1.5, "text", [], {}, [1], {"a": 1}]).map(lambda v: (v,)),
    ),
)
def test_the_check_agrees_with_jsonschema(
    judge: jsonschema.Draft202012Validator, place: tuple[Any, ...], change: Any
) -> None:
    job = copy.deepcopy(JOB)
    parent = job
    for key in place[:-1]:
        parent = parent[key]
    if change == "remove":
        del parent[place[-1]]
    elif change == "rename" and isinstance(parent, dict):
        parent[f"{place[-1]}x"] = parent.pop(place[-1])
    else:
        parent[place[-1]] = change[0] if isinstance(change, tuple) else None
    assert bool(problems([job])) == (not judge.is_valid(job))


def test_a_misspelt_field_is_named_with_its_place() -> None:
    made = objects()
    made[2]["spec"]["elasticPolicy"]["minReplica"] = 4
    made[0]["spec"]["template"]["spec"]["containers"][0]["imag"] = "x"
    assert problems(made) == [
        "Job a-rendezvous: spec.template.spec.containers[0].imag is unknown; did you mean image?",
        "PyTorchJob a: spec.elasticPolicy.minReplica is unknown; did you mean minReplicas?",
    ]
