"""What the launcher rests on, whatever a patch does: each breach is a line with its field.

The reasons stand with what is rendered: base/*.yaml and the functions that fill them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from launcher.render.objects import Object, pod_templates
from launcher.spec import DOMAIN, INDEXED, KIND_LABEL, PROGRAM, secret_in
from trainer.config import RUN_CONFIG, RUN_INDEXES

MAIN = {"PyTorchJob": "pytorch", "TrainingRuntime": "node", "Job": "rendezvous"}
"""The container of our program, which operators look for by name."""
_VARIABLES = {
    RUN_CONFIG: "give the run's keys as overrides, as optim.lr=0.2",
    RUN_INDEXES: "it follows from the number of indexes",
}
_OF_VARIABLE = re.compile(r"\.env\[\d+\]\.value$")
_SIZES = ("minReplicas", "maxReplicas")
_SUSPEND = "the queue sets it, and the launcher where there is none"
_MEETING = ("rdzvBackend", "rdzvHost", "rdzvPort", "rdzvId")


def broken(before: list[Object], after: list[Object]) -> list[str]:
    """A line for each invariant that no longer holds; both lists have the same objects."""
    found = []
    for old, new in zip(before, after, strict=True):
        title = f"{old['kind']} {old['metadata']['name']}"
        try:
            found += [f"{title}: {line}" for line in _broken(old, new)]
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            # So much is gone that the object cannot be read any more.
            found.append(f"{title}: it lacks {error}, or has something else there")
    return found


def _broken(old: Object, new: Object) -> Iterator[str]:
    yield from _kept(old, new, "metadata.namespace", "give --namespace")
    for path in ("spec.suspend", "spec.runPolicy.suspend", "spec.template.spec.suspend"):
        if _get(new, path) is not None:
            yield f"{path} is set; {_SUSPEND}"
    yield from _own_marks(old["metadata"], new["metadata"], "metadata")
    if old["kind"] == "PyTorchJob":
        yield from _pytorchjob(old["spec"], new["spec"])
    elif old["kind"] == "TrainJob":
        yield from _trainjob(old, new)
    elif old["kind"] == "TrainingRuntime":
        yield from _runtime(old, new)
    elif _is_indexed(old):
        yield from _indexed(old, new)
    elif old["kind"] == "Service":
        yield from _kept(old, new, "spec.selector", "it finds the rendezvous")
    yield from _pods(old, new)
    yield from _secrets(new, "")


def _pytorchjob(old: Object, new: Object) -> Iterator[str]:
    roles = list(new["pytorchReplicaSpecs"])
    if roles != ["Worker"]:
        has = ", ".join(roles) or "nothing"
        yield f"spec.pytorchReplicaSpecs has {has}; allowed is Worker alone: none may be special"
        return
    worker, run = new["pytorchReplicaSpecs"]["Worker"], new["runPolicy"]
    where = "spec.pytorchReplicaSpecs.Worker"
    if (policy := worker.get("restartPolicy")) != "OnFailure":
        yield (
            f"{where}.restartPolicy is {policy}; allowed is OnFailure, since ExitCode takes "
            "any error of a rank for final"
        )
    if (policy := run.get("cleanPodPolicy")) not in ("Running", "All"):
        yield (
            f"spec.runPolicy.cleanPodPolicy is {policy}; allowed are Running and All, or GPU pods "
            "stay after the end"
        )
    replicas = old["pytorchReplicaSpecs"]["Worker"]["replicas"]
    if worker.get("replicas") != replicas:
        yield f"{where}.replicas is {worker.get('replicas')}, not {replicas}; give --gpus"
    yield from _elastic(old["elasticPolicy"], new["elasticPolicy"])


def _elastic(old: Object, new: Object) -> Iterator[str]:
    where = "spec.elasticPolicy"
    if "metrics" in new:
        yield f"{where}.metrics is set; no autoscaler knows how many GPUs there are"
    for key in (*_SIZES, *_MEETING):
        if new.get(key) != old[key]:
            hint = "; give --min-gpus or --max-gpus" if key in _SIZES else ""
            yield f"{where}.{key} is {new.get(key)}, not {old[key]}{hint}"


def _trainjob(old: Object, new: Object) -> Iterator[str]:
    for path in ("spec.runtimeRef", "spec.trainer.numNodes", "spec.trainer.numProcPerNode"):
        yield from _kept(old, new, path, "give --gpus")


def _runtime(old: Object, new: Object) -> Iterator[str]:
    yield from _kept(old, new, "spec.mlPolicy", "give --gpus")
    jobs = new["spec"]["template"]["spec"]["replicatedJobs"]
    if [job["name"] for job in jobs] != ["node"] or jobs[0].get("replicas") != 1:
        yield "spec.template.spec.replicatedJobs must hold one job, node, with replicas 1"


def _is_indexed(thing: Object) -> bool:
    labels: dict[str, str] = thing["metadata"]["labels"]
    return labels.get(KIND_LABEL) == INDEXED


def _indexed(old: Object, new: Object) -> Iterator[str]:
    for key, instead in (
        ("completionMode", "each pod asks which index it is"),
        ("completions", "every index is told how many there are"),
        ("parallelism", "give --parallelism"),
        ("template.spec.restartPolicy", "the Job makes a new pod where one fails"),
    ):
        yield from _kept(old, new, f"spec.{key}", instead)


def _pods(old: Object, new: Object) -> Iterator[str]:
    main = PROGRAM if _is_indexed(old) else MAIN.get(old["kind"], "")
    for (path, before), (_, after) in zip(pod_templates(old), pod_templates(new), strict=False):
        yield from _own_marks(before["metadata"], after.get("metadata", {}), f"{path}.metadata")
        names = [container["name"] for container in after["spec"].get("containers", ())]
        if names.count(main) != 1:
            yield (
                f"{path}.spec.containers are called {', '.join(names) or 'nothing'}; one must be "
                f"{main}, which is looked for by this name"
            )
            continue
        ours = after["spec"]["containers"][names.index(main)]
        for name, instead in _VARIABLES.items():
            if _variable(ours, name) != _variable(before["spec"]["containers"][0], name):
                yield f"{path}: variable {name} of {main} has changed; {instead}"
        for container in (*after["spec"].get("initContainers", ()), *after["spec"]["containers"]):
            yield from _container(container, f"{path}: container {container['name']}")


def _container(container: Object, where: str) -> Iterator[str]:
    if "readinessProbe" in container:
        yield f"{where} has a readinessProbe; its name would wait for it, and the group with it"
    for entry in container.get("env", ()):
        if "value" in entry and "valueFrom" in entry:
            yield f"{where}: variable {entry['name']} has both value and valueFrom; set one to null"
        why = secret_in(entry["name"], str(entry.get("value", "")))
        if why:
            yield (
                f"{where}: variable {entry['name']} stays readable in the cluster ({why}); give "
                "valueFrom.secretKeyRef in place of value"
            )


def _secrets(value: Any, path: str) -> Iterator[str]:
    """Anything else that looks like a secret by itself, wherever it stands."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _secrets(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _secrets(entry, f"{path}[{index}]")
    elif isinstance(value, str) and not _OF_VARIABLE.search(path):
        why = secret_in("", value)
        if why:
            yield f"{path} looks like a secret: {why}; refer to a Secret"


def _own_marks(before: Object, after: Object, path: str) -> Iterator[str]:
    """Labels and annotations by which launcher, controller and ledger know the job."""
    for kind in ("labels", "annotations"):
        old, new = before.get(kind) or {}, after.get(kind) or {}
        for key in sorted({*old, *new}):
            if key.partition("/")[0] == DOMAIN and old.get(key) != new.get(key):
                yield (
                    f"{path}.{kind} has {key}={new.get(key)}, not {old.get(key)}; give the flag or "
                    "key of job that leads to it"
                )


def _kept(old: Object, new: Object, path: str, instead: str) -> Iterator[str]:
    before, after = _get(old, path), _get(new, path)
    if before != after:
        yield f"{path} is {after}, not {before}; {instead}"


def _get(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _variable(container: Object, name: str) -> Any:
    found = [entry for entry in container.get("env", ()) if entry["name"] == name]
    return found[-1].get("value") if found else None
