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
    Spec,
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


def named(spec: Spec, base: str, name: str) -> Object:
    """The object of a base file, as part of the job."""
    thing = load(base)
    thing["metadata"] = {"name": name, "labels": labels(spec)}
    if spec.job.namespace:
        thing["metadata"]["namespace"] = spec.job.namespace
    return thing


def labels(spec: Spec) -> dict[str, str]:
    """What every object and pod of the job bears."""
    job = spec.job
    found = {
        JOB_LABEL: spec.name,
        MODEL_LABEL: as_label(spec.model),
        USER_LABEL: job.user,
        STAGE_LABEL: job.stage,
        BUDGET_LABEL: job.budget,
    }
    return {key: value for key, value in found.items() if value}


def notes(spec: Spec) -> dict[str, str]:
    """What the job itself tells launcher and controller."""
    found = {MODEL_ANNOTATION: spec.model, CHECKPOINTS_ANNOTATION: spec.output}
    if not spec.local:  # else there is no controller
        found[DEADLINE_ANNOTATION] = str(spec.job.deadline_s)
    return {key: value for key, value in found.items() if value}


def worker_notes(spec: JobSpec) -> dict[str, str]:
    """What the controller is told of workers that form a group."""
    job = spec.job
    if spec.local:
        return {}
    return {
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
