"""Jobs of independent parts: what is made of flags, and the Indexed Job that carries them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from launcher.cli.asked import asking_indexed
from launcher.errors import UsageError
from launcher.indexed import resolve_indexed
from launcher.render import pod_templates, problems, render, to_yaml
from launcher.request import IndexedRequest
from launcher.spec import CHECKPOINTS_ANNOTATION, INDEXED, JOB_LABEL, KIND_LABEL, IndexedSpec, Patch
from tests import parts
from tests.unit.launcher.goldens import FOLDER, GIVEN, NOTHING_SET, indexed, indexed_specs
from trainer.config import ConfigError, parse

PLACES = {"image": GIVEN["image"], "checkpoints": GIVEN["checkpoints"]}


def asked(work: Any = None, **said: Any) -> IndexedSpec:
    return indexed(IndexedRequest(**(PLACES | said)), work or parts.work(4))


def job_of(spec: IndexedSpec) -> dict[str, Any]:
    (job,) = render(spec)
    return job


def container_of(spec: IndexedSpec) -> dict[str, Any]:
    (container,) = job_of(spec)["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


@pytest.mark.parametrize("name", sorted(indexed_specs()))
def test_it_renders_to_its_golden_file_and_reads_back(name: str) -> None:
    spec = indexed_specs()[name]
    made = render(spec)
    assert to_yaml(made) == (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert problems(made) == []
    (template,) = [template for _, template in pod_templates(made[0])]
    env = {each["name"]: each.get("value") for each in template["spec"]["containers"][0]["env"]}
    assert parse(parts.PartsConfig, str(env["RUN_CONFIG"]), source="x") == spec.config
    assert env["RUN_INDEXES"] == str(spec.indexes)


def test_the_output_is_the_jobs_own_folder_unless_the_verb_gives_one() -> None:
    spec = asked(name="a")
    assert spec.output == spec.config.output == f"{GIVEN['checkpoints']}/a"
    assert job_of(spec)["metadata"]["annotations"][CHECKPOINTS_ANNOTATION] == spec.output
    work = parts.work(4)
    work = replace(work, config=replace(work.config, output="s3://elsewhere/x"))
    assert asked(work).output == "s3://elsewhere/x"
    here = resolve_indexed(
        IndexedRequest(local=True, overrides=("output=parts",)), parts.work(), NOTHING_SET, str
    )
    assert here.spec.output.startswith("file:///")
    assert here.spec.output.endswith("/parts")


def test_the_same_work_has_the_same_name_and_other_work_another() -> None:
    first = asked()
    assert first.name.startswith("parts-")
    assert asked(parallelism=1).name == first.name
    assert asked(indexes=5).name != first.name
    assert asked(overrides=("trouble=once",)).name != first.name


def test_what_is_missing_is_told_and_stands_as_a_placeholder() -> None:
    found = resolve_indexed(IndexedRequest(name="a"), parts.work(), NOTHING_SET, str)
    assert [line.partition(" ")[0] for line in found.missing] == ["image", "checkpoints"]
    assert found.spec.output == "MISSING-checkpoints/a"


def test_a_pod_asks_for_its_own_numbers_without_gpus_and_by_its_gpus_with_them() -> None:
    assert container_of(asked())["resources"] == {
        "requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "16Gi"},
    }  # fmt: skip
    few = container_of(asked(cpus=1, memory_gib=3))["resources"]
    assert few["requests"] == {"cpu": "1", "memory": "3Gi"}
    many = container_of(asked(gpus=2, cpus=3, overrides=("job.memory_per_gpu_gib=40",)))
    assert many["resources"] == {
        "requests": {"cpu": "3", "memory": "80Gi", "nvidia.com/gpu": "2"},
        "limits": {"memory": "80Gi", "nvidia.com/gpu": "2"},
    }


def test_parts_run_at_once_as_asked_but_never_more_than_there_are() -> None:
    body = job_of(asked(indexes=3, parallelism=20))["spec"]
    assert (body["completions"], body["parallelism"], body["maxFailedIndexes"]) == (3, 3, 0)
    body = job_of(asked(indexes=250))["spec"]
    assert (body["completions"], body["parallelism"], body["maxFailedIndexes"]) == (250, 2, 25)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"indexes": 0}, "--indexes is 0, but 1 to 10000 are allowed"),
        ({"parallelism": 0}, "--parallelism is 0"),
        ({"gpus": -1}, "--gpus is -1"),
        ({"cpus": 0}, "--cpus is 0"),
        ({"memory_gib": 1}, "--memory-gib is 1, but /dev/shm takes 1 of it"),
        ({"budget": "no label!"}, "budget 'no label!' cannot be a label"),
        ({"overrides": ("job.env.RUN_INDEXES=3",)}, "job.env sets RUN_INDEXES"),
        ({"local": True, "deadline_s": 5}, "--deadline goes without --local"),
    ],
)
def test_what_cannot_be_is_told_with_its_value(said: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(**said)
    assert words in str(caught.value)


def test_an_unknown_key_of_the_program_is_told() -> None:
    with pytest.raises(ConfigError, match="troubel"):
        asked(overrides=("troubel=once",))


def test_a_pod_has_neither_ports_nor_what_groups_are_told() -> None:
    container = container_of(asked(gpus=1))
    assert "ports" not in container
    names = [each["name"] for each in container["env"]]
    assert not [name for name in names if name.startswith(("PET_", "NCCL_", "TORCH_"))]


def test_patches_may_change_all_but_what_the_parts_rest_on() -> None:
    def patched(merge: dict[str, Any]) -> dict[str, Any]:
        return job_of(replace(asked(), patches=(Patch("p.yaml", "Job", "", merge=merge),)))

    assert patched({"spec": {"backoffLimitPerIndex": 9}})["spec"]["backoffLimitPerIndex"] == 9
    for merge, words in (
        ({"spec": {"completions": 9}}, "spec.completions is 9, not 4"),
        ({"spec": {"completionMode": "NonIndexed"}}, "spec.completionMode is NonIndexed"),
        ({"metadata": {"labels": {KIND_LABEL: None}}}, f"metadata.labels has {KIND_LABEL}=None"),
        (
            {"spec": {"template": {"spec": {"containers": [
                {"name": "program", "env": [{"name": "RUN_INDEXES", "value": "9"}]}
            ]}}}},
            "variable RUN_INDEXES of program has changed",
        ),
    ):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            patched(merge)
        assert words in str(caught.value)


def test_it_bears_what_tells_it_from_the_parts_of_other_jobs() -> None:
    labels = job_of(asked(name="a"))["metadata"]["labels"]
    assert (labels[JOB_LABEL], labels[KIND_LABEL]) == ("a", INDEXED)


def test_a_verb_has_the_options_that_describe_such_a_job() -> None:
    found: list[IndexedRequest] = []

    def verb(request: IndexedRequest, data: str = "") -> None:
        found.append(request)

    app = typer.Typer()
    app.command()(asking_indexed(verb))
    words = "--data x --indexes 8 --parallelism 3 --gpus 1 --cpus 2 --memory-gib 9 -n ml "
    words += "--deadline 2h --budget b job.spot=allow"
    answer = CliRunner().invoke(app, words.split())
    assert answer.exit_code == 0, answer.output
    assert found == [
        IndexedRequest(
            indexes=8, parallelism=3, gpus=1, cpus=2, memory_gib=9, namespace="ml", budget="b",
            deadline_s=7200, overrides=("job.spot=allow",),
        )
    ]  # fmt: skip
