"""Users' patches: how they merge, what they may not break, and which file is blamed."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import UsageError
from launcher.render import render
from launcher.render.merge import MergeError, merge
from launcher.request import Request
from launcher.spec import JobSpec, read_patches
from tests.unit.launcher.goldens import GIVEN, spec

POD = "spec: {pytorchReplicaSpecs: {Worker: {template: {spec: {%s}}}}}"
CONTAINER = "kind: PyTorchJob\n" + POD % "containers: [{name: pytorch, %s}]"


@cache
def unpatched(backend: str) -> JobSpec:
    return spec(Request(model="senet154", name="a", gpus=64, backend=backend, **GIVEN))


def patched(folder: Path, *texts: str, backend: str = "pytorchjob") -> list[dict[str, Any]]:
    files = []
    for number, text in enumerate(texts):
        file = folder / f"patch{number}.yaml"
        file.write_text(text, encoding="utf-8")
        files.append(str(file))
    return render(replace(unpatched(backend), patches=read_patches(files, Path())))


def container(job: dict[str, Any]) -> dict[str, Any]:
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    found: dict[str, Any] = pod["containers"][0]
    return found


# -- strategic merge


@pytest.mark.parametrize(
    ("current", "patch", "result"),
    [
        ("{a: 1, b: 2}", "{b: 3, c: 4}", "{a: 1, b: 3, c: 4}"),
        ("{a: 1, b: 2}", "{a: null}", "{b: 2}"),
        ("{a: {b: 1, c: 2}}", "{a: {$patch: replace, d: 3}}", "{a: {d: 3}}"),
        ("{a: {b: 1}, c: 2}", "{a: {$patch: delete}}", "{c: 2}"),
        ("{args: [a, b]}", "{args: [c]}", "{args: [c]}"),
        ("{tolerations: [{key: a}]}", "{tolerations: [{key: b}]}", "{tolerations: [{key: b}]}"),
        (
            "{env: [{name: A, value: x}, {name: B, value: y}]}",
            "{env: [{name: C, value: z}, {name: A, value: w}]}",
            "{env: [{name: A, value: w}, {name: B, value: y}, {name: C, value: z}]}",
        ),
        (
            "{env: [{name: A}, {name: B}]}",
            "{env: [{name: A, $patch: delete}]}",
            "{env: [{name: B}]}",
        ),
        (
            "{volumes: [{name: a}, {name: b}]}",
            "{volumes: [{$patch: replace}, {name: c}]}",
            "{volumes: [{name: c}]}",
        ),
        (
            "{volumes: [{name: a, emptyDir: {}}]}",
            "{volumes: [{name: a, $patch: replace, hostPath: {path: /x}}]}",
            "{volumes: [{name: a, hostPath: {path: /x}}]}",
        ),
        (
            "{volumeMounts: [{name: a, mountPath: /a}]}",
            "{volumeMounts: [{name: b, mountPath: /a}, {name: a, mountPath: /c}]}",
            "{volumeMounts: [{name: b, mountPath: /a}, {name: a, mountPath: /c}]}",
        ),
        (
            "{ports: [{containerPort: 1, name: a}]}",
            "{ports: [{containerPort: 1, name: b}, {containerPort: 2}]}",
            "{ports: [{containerPort: 1, name: b}, {containerPort: 2}]}",
        ),
        ("{ports: [{port: 1}]}", "{ports: [{port: 1, name: b}]}", "{ports: [{port: 1, name: b}]}"),
        ("{}", "{env: [{name: A}]}", "{env: [{name: A}]}"),
    ],
)
def test_lists_of_named_things_merge_by_their_names(current: str, patch: str, result: str) -> None:
    before = yaml.safe_load(current)
    kept = copy.deepcopy(before)
    assert merge(before, yaml.safe_load(patch)) == yaml.safe_load(result)
    assert before == kept, "what is given stays as it is"


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ("{a: {$patch: remove}}", r"a has \$patch: remove; allowed here are replace and merge"),
        ("{env: [{value: x}]}", "an entry of env lacks name"),
        ("{a: {$setElementOrder/env: []}}", r"a\.\$setElementOrder/env is no directive"),
    ],
)
def test_what_cannot_be_merged_is_told_with_its_field(patch: str, said: str) -> None:
    with pytest.raises(MergeError, match=said):
        merge({"a": {}, "env": []}, yaml.safe_load(patch))


VALUES = st.recursive(
    st.none() | st.integers() | st.text("ab", max_size=2),
    lambda children: st.dictionaries(st.sampled_from(["x", "y", "env"]), children, max_size=3),
    max_leaves=8,
)
MAPS = st.dictionaries(st.sampled_from(["x", "y", "z"]), VALUES, max_size=3)


@given(current=MAPS, patch=MAPS)
def test_a_patch_applied_twice_is_applied_once(current: Any, patch: Any) -> None:
    once = merge(current, patch)
    assert merge(once, patch) == once
    assert merge(current, {}) == current


# -- files


def test_patches_are_applied_last_and_in_their_order(tmp_path: Path) -> None:
    first = CONTAINER % "env: [{name: NCCL_DEBUG, value: TRACE}]"
    second = """
target: {kind: PyTorchJob, name: a}
patch:
- {op: test, path: /spec/runPolicy/cleanPodPolicy, value: Running}
- {op: add, path: /metadata/labels/team, value: vision}
- {op: replace, path: /spec/runPolicy/ttlSecondsAfterFinished, value: 1}
---
kind: PyTorchJob
spec: {runPolicy: {ttlSecondsAfterFinished: 2}}
"""
    plain, made = patched(tmp_path), patched(tmp_path, first, second)
    job = made[2]
    assert {"name": "NCCL_DEBUG", "value": "TRACE"} in container(job)["env"]
    assert len(container(job)["env"]) == len(container(plain[2])["env"])
    assert job["metadata"]["labels"]["team"] == "vision"
    assert job["spec"]["runPolicy"]["ttlSecondsAfterFinished"] == 2
    assert made[:2] == plain[:2]


def test_a_job_file_names_patches_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "ttl.yaml").write_text("kind: Job\nspec: {ttlSecondsAfterFinished: 5}\n")
    file = tmp_path / "my.yaml"
    file.write_text("run: {model: {name: resnet18}}\npatches: [ttl.yaml]\n")
    asked = {"model": str(file), "name": "a"} | GIVEN
    assert render(spec(Request(**asked)))[0]["spec"]["ttlSecondsAfterFinished"] == 5
    local = Request(model=str(file), name="a", local=True, data="file:///d")
    assert render(spec(local))[0]["spec"]["ttlSecondsAfterFinished"] == 604800
    with pytest.raises(UsageError, match=r"--patch x.yaml goes without --local"):
        spec(Request(model=str(file), local=True, data="file:///d", patches=("x.yaml",)))
    file.write_text("patches: ttl.yaml\n")
    with pytest.raises(UsageError, match=r"patches in .*my.yaml is 'ttl.yaml'; give a list"):
        spec(Request(**asked))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not valid YAML in line"),
        ("", "is empty"),
        ("- {op: add}", "neither a strategic merge nor a JSON patch"),
        ("a: 1", "neither a strategic merge nor a JSON patch"),
        ("kind: PyTorchJob", "changes nothing"),
        ("kind: 3\nspec: {}", "kind of patch .* is 3"),
        ("target: {name: a}\npatch: [{op: add, path: /a, value: 1}]", "must hold kind"),
        ("target: {kind: Job, group: batch}\npatch: [{op: add, path: /a}]", "must hold kind"),
        ("target: {kind: Job}\npatch: []", "list of operations"),
        ("target: {kind: Job}\npatch: [{op: add}]", r"patch\[0\] .* must hold op and path"),
        ("kind: Pod\nspec: {}", "is for Pod, but the job has Job a-rendezvous, Service"),
        ("kind: Job\nmetadata: {name: b}\nspec: {}", "is for Job b, but the job has"),
        ("kind: Job\nspec: {template: {$patch: keep}}", "spec.template has .* keep"),
        (
            "target: {kind: Job}\npatch: [{op: replace, path: /spec/no, value: 1}]",
            r"operation 0 \(replace /spec/no\) on Job a-rendezvous: .*non-existent",
        ),
        ("target: {kind: Job}\npatch: [{op: turn, path: /a}]", "operation 0 .*'turn'"),
        ("target: {kind: Job}\npatch: [{op: add, path: a, value: 1}]", "must start with /"),
        ("target: {kind: Job}\npatch: [{op: test, path: /kind, value: 1}]", "operation 0 .test"),
        ("target: {kind: Job}\npatch: [{op: remove, path: /kind}]", "makes another object"),
        ("target: {kind: Job}\npatch: [{op: remove, path: /metadata}]", "makes another object"),
        ("target: {kind: Job}\npatch: [{op: replace, path: '', value: 1}]", "another object"),
    ],
)
def test_what_is_no_patch_is_one_line_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        patched(tmp_path, text)
    assert "patch0.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_patch_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff")
    for name, said in (("none.yaml", "No such file"), ("bytes.yaml", "not UTF-8")):
        with pytest.raises(UsageError, match=rf"cannot read the patch .*{name}: {said}"):
            spec(Request(model="senet154", patches=(str(tmp_path / name),), **GIVEN))


# -- what a patch may not break

JOB = "kind: PyTorchJob\nspec: "
RUNTIME = "kind: TrainingRuntime\nspec: "
BREACHES = [
    (JOB + "{elasticPolicy: {minReplica: 3}}", "minReplica is unknown; did you mean minReplicas"),
    (JOB + "{elasticPolicy: {minReplicas: 3}}", "minReplicas is 3, not 4; give --min-gpus"),
    (JOB + "{elasticPolicy: {maxReplicas: 30}}", "maxReplicas is 30, not 8; .*--max-gpus"),
    (JOB + "{pytorchReplicaSpecs: {Worker: {replicas: 9}}}", "replicas is 9, not 8; give --gpus"),
    (JOB + "{elasticPolicy: {rdzvHost: b}}", "rdzvHost is b, not a-rendezvous"),
    (JOB + "{elasticPolicy: {metrics: []}}", "metrics is set; no autoscaler"),
    (JOB + "{elasticPolicy: null}", "lacks 'elasticPolicy'"),
    (JOB + "{runPolicy: {cleanPodPolicy: None}}", "cleanPodPolicy is None; allowed are Running"),
    (JOB + "{runPolicy: {suspend: true}}", "runPolicy.suspend is set"),
    (JOB + "{pytorchReplicaSpecs: {Worker: {restartPolicy: ExitCode}}}", "restartPolicy is ExitC"),
    (JOB + "{pytorchReplicaSpecs: {Master: {replicas: 1}}}", "has Worker, Master; allowed is"),
    (JOB + "{pytorchReplicaSpecs: null}", "lacks the field pytorchReplicaSpecs"),
    (CONTAINER % "$patch: delete", "are called nothing; one must be pytorch"),
    (CONTAINER % "readinessProbe: {exec: {command: [ls]}}", "pytorch has a readinessProbe"),
    (CONTAINER % "env: [{name: RUN_CONFIG, value: x}]", "variable RUN_CONFIG of pytorch has chan"),
    (CONTAINER % "env: [{name: RUN_CONFIG, $patch: delete}]", "RUN_CONFIG of pytorch has changed"),
    (CONTAINER % "env: [{name: MY_TOKEN, value: abcdef}]", "MY_TOKEN stays readable .*secretKeyR"),
    (
        CONTAINER % "env: [{name: NCCL_DEBUG, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]",
        "NCCL_DEBUG has both value and valueFrom",
    ),
    (CONTAINER % "args: ['s3://key:abcdef@bucket']", r"args\[0\] looks like a secret"),
    ("kind: PyTorchJob\nmetadata: {labels: {launcher.dev/job: b}}", "launcher.dev/job=b, not a"),
    (
        "kind: PyTorchJob\nmetadata: {annotations: {launcher.dev/hang-s: '0'}}",
        "launcher.dev/hang-s=0, not 1800",
    ),
    (
        "kind: PyTorchJob\n"
        "spec: {pytorchReplicaSpecs: {Worker: {template: {metadata: {labels: null}}}}}",
        "launcher.dev/job=None, not a",
    ),
    ("kind: PyTorchJob\nmetadata: {namespace: b}", "metadata.namespace is b, not None"),
    ("kind: Service\nspec: {selector: {a: b}}", "spec.selector is .* it finds the rendezvous"),
    (
        "kind: Job\nspec: {template: {spec: {containers: [{name: rendezvous, imag: x}]}}}",
        "imag is unknown; did you mean image",
    ),
    ("kind: Job\nspec: null", "spec.template is None"),
    (RUNTIME + "{mlPolicy: {numNodes: 3}}", "spec.mlPolicy is .*give --gpus"),
    (
        RUNTIME + "{template: {spec: {replicatedJobs: [{name: node, replicas: 2}]}}}",
        "one job, node, with replicas 1",
    ),
    ("kind: TrainJob\nspec: {trainer: {numNodes: 3}}", "numNodes is 3, not 8"),
    ("kind: TrainJob\nspec: {suspend: true}", "spec.suspend is set"),
    (RUNTIME + "{template: {spec: {suspend: true}}}", "template.spec.suspend is set"),
    ("kind: Job\nspec: {suspend: true}", "spec.suspend is set"),
]


@pytest.mark.parametrize(("text", "said"), BREACHES)
def test_a_breach_names_file_object_and_field(tmp_path: Path, text: str, said: str) -> None:
    backend = "trainjob" if "kind: Train" in text else "pytorchjob"
    with pytest.raises(UsageError, match=said) as caught:
        patched(tmp_path, text, backend=backend)
    assert str(caught.value).startswith(f"after patch {tmp_path}/patch0.yaml: ")
    assert "\n" not in str(caught.value)
    assert "abcdef" not in str(caught.value), "a secret is not repeated"


@pytest.mark.parametrize(
    "text",
    [
        CONTAINER % "env: [{name: MY_TOKEN, valueFrom: {secretKeyRef: {name: s, key: k}}}]",
        CONTAINER % "env: [{name: TOKENIZERS_PARALLELISM, value: 'false'}]",
        JOB + "{runPolicy: {cleanPodPolicy: All}}",
        JOB + "{elasticPolicy: {rdzvConf: [{key: join_timeout, value: '9'}]}}",
        "kind: PyTorchJob\n" + POD % "initContainers: [{name: wait, image: i, command: [ls]}]",
        "kind: PyTorchJob\n" + POD % "containers: [{name: side, image: i}]",
        "kind: PyTorchJob\nmetadata: {labels: {kueue.x-k8s.io/queue-name: other}}",
    ],
)
def test_what_breaks_nothing_is_left_to_the_user(tmp_path: Path, text: str) -> None:
    assert patched(tmp_path, text) != patched(tmp_path)
