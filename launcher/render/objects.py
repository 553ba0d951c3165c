"""What all objects of a job share: their base file, name, labels, and where pods stand in them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any

from launcher.spec import (
    BUDGET_LABEL,
    CHECKPOINTS_ANNOTATION,
    DEADLINE_ANNOTATION,
    HANG_ANNOTATION,
    JOB_LABEL,
    MODEL_ANNOTATION,
    MODEL_LABEL,
    RESTART_WINDOW_ANNOTATION,
    RESTARTS_ALLOWED_ANNOTATION,
    STAGE_LABEL,
    USER_LABEL,
    JobSpec,
    as_label,
)

Object = dict[str, Any]
"""A Kubernetes object as kubectl would read it from YAML."""


def load(base: str) -> Object:
    """A base file, read anew so that it may be changed."""
    import yaml

    text = resources.files("launcher.render").joinpath("base", base).read_text(encoding="utf-8")
    loaded: Object = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


def named(spec: JobSpec, base: str, name: str) -> Object:
    """The object of a base file, as part of the job."""
    thing = load(base)
    thing["metadata"] = {"name": name, "labels": labels(spec)}
    if spec.job.namespace:
        thing["metadata"]["namespace"] = spec.job.namespace
    return thing


def labels(spec: JobSpec) -> dict[str, str]:
    """What every object and pod of the job bears."""
    job = spec.job
    found = {
        JOB_LABEL: spec.name,
        MODEL_LABEL: as_label(spec.run.model.name),
        USER_LABEL: job.user,
        STAGE_LABEL: job.stage,
        BUDGET_LABEL: job.budget,
    }
    return {key: value for key, value in found.items() if value}


def notes(spec: JobSpec) -> dict[str, str]:
    """What the job itself tells launcher and controller."""
    job = spec.job
    run = {
        MODEL_ANNOTATION: spec.run.model.name,
        CHECKPOINTS_ANNOTATION: spec.run.checkpoint.address,
    }
    if spec.local:  # no controller
        return run
    return run | {
        DEADLINE_ANNOTATION: str(job.deadline_s),
        RESTARTS_ALLOWED_ANNOTATION: str(job.restarts_allowed),
        RESTART_WINDOW_ANNOTATION: str(job.restart_window_s),
        HANG_ANNOTATION: str(job.hang_s),
    }


def pod_templates(thing: Object) -> Iterator[tuple[str, Object]]:
    """Each pod template of an object with the path where it stands."""
    spec = thing.get("spec", {})
    if thing["kind"] == "PyTorchJob":
        for role, replicas in spec["pytorchReplicaSpecs"].items():
            yield f"spec.pytorchReplicaSpecs.{role}.template", replicas["template"]
    elif thing["kind"] == "Job":
        yield "spec.template", spec["template"]
    elif thing["kind"] == "TrainingRuntime":
        for index, job in enumerate(spec["template"]["spec"]["replicatedJobs"]):
            path = f"spec.template.spec.replicatedJobs[{index}].template.spec.template"
            yield path, job["template"]["spec"]["template"]
