"""From a job's spec to the objects that carry it, and their check. Pure."""

from collections.abc import Callable

from launcher.render.check import problems
from launcher.render.indexedjob import indexedjob
from launcher.render.objects import Object, pod_templates
from launcher.render.patches import apply_patches
from launcher.render.pytorchjob import pytorchjob
from launcher.render.text import to_json, to_yaml
from launcher.render.trainjob import trainjob
from launcher.spec import IndexedSpec, JobSpec

__all__ = ["BACKENDS", "Object", "pod_templates", "problems", "render", "to_json", "to_yaml"]

BACKENDS: dict[str, Callable[[JobSpec], list[Object]]] = {
    "pytorchjob": pytorchjob,
    "trainjob": trainjob,
}
"""What makes the objects of a training run, by `job.backend`."""


def render(spec: JobSpec | IndexedSpec) -> list[Object]:
    """The objects of a job in the order of creation, with the user's patches applied last.

    On this machine there are none: they are about clusters.

    Raises UsageError where a patch breaks what the launcher rests on.
    """
    if isinstance(spec, IndexedSpec):
        objects = indexedjob(spec)
    else:
        objects = BACKENDS[spec.job.backend](spec)
    return objects if spec.local else apply_patches(objects, spec.patches)
