"""The rendered objects as commands and environments, as operator and kubelet make them. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.errors import UsageError
from launcher.spec import CHECKPOINTS_ANNOTATION, MODEL_ANNOTATION

HOST = "127.0.0.1"

_PROGRAMS = {
    "python": (sys.executable,),
    "torchrun": (sys.executable, "-m", "torch.distributed.run"),
}
_FOREIGN = ("PET_", "TORCHELASTIC_", "GROUP_", "ROLE_", "MASTER_")
_FOREIGN_NAMES = frozenset({"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"})
"""Of a torchrun around us; they would mislead ours."""
_OF_THE_POD = frozenset({"TMPDIR"})
"""Name folders that are mounted into pods only."""


@dataclass(frozen=True)
class Parts:
    """What an Indexed Job is beside its pods."""

    indexes: int
    retries: int
    """How often an index that failed is started again."""
    failures_most: int
    """Indexes that may fail for good before the others are ended too."""


@dataclass(frozen=True)
class Job:
    """What the supervisor needs of the objects."""

    name: str
    model: str
    checkpoints: str
    labels: Mapping[str, str]
    workers: int
    least: int
    most: int
    grace_s: float
    """From SIGTERM to SIGKILL."""
    num_processes: int
    """Trainer processes of one worker, each with a GPU; of a part its GPUs, which may be none."""
    worker: tuple[str, ...]
    worker_env: Mapping[str, str]
    rendezvous: tuple[str, ...]
    rendezvous_env: Mapping[str, str]
    parts: Parts | None = None
    """Of an Indexed Job, whose workers are its indexes; then there is no rendezvous."""


def read_objects(objects: Sequence[Mapping[str, Any]]) -> Job:
    """The job of the rendered objects. Raises UsageError for what this backend cannot run."""
    by_kind = {str(each.get("kind")): each for each in objects}
    try:
        if set(by_kind) == {"Job"}:
            return _read_indexed(by_kind["Job"])
        job, store = by_kind["PyTorchJob"], by_kind["Job"]
        annotations = job["metadata"].get("annotations", {})
        elastic = job["spec"]["elasticPolicy"]
        worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
        pod = worker["template"]["spec"]
        container = next(each for each in pod["containers"] if each["name"] == "pytorch")
        store_container = store["spec"]["template"]["spec"]["containers"][0]
        num_processes = int(job["spec"].get("nprocPerNode", 1))
        conf = elastic.get("rdzvConf", ())
        return Job(
            name=job["metadata"]["name"],
            model=annotations.get(MODEL_ANNOTATION, ""),
            checkpoints=annotations.get(CHECKPOINTS_ANNOTATION, ""),
            labels=job["metadata"].get("labels", {}),
            workers=worker["replicas"],
            least=elastic["minReplicas"],
            most=elastic["maxReplicas"],
            grace_s=float(pod.get("terminationGracePeriodSeconds", 30)),
            num_processes=num_processes,
            worker=_command(container),
            worker_env={
                **_environment(container),
                "PET_NNODES": f"{elastic['minReplicas']}:{elastic['maxReplicas']}",
                "PET_NPROC_PER_NODE": str(num_processes),
                "PET_RDZV_BACKEND": elastic.get("rdzvBackend", "c10d"),
                "PET_RDZV_ID": elastic["rdzvId"],
                "PET_MAX_RESTARTS": str(elastic["maxRestarts"]),
                "PET_RDZV_CONF": ",".join(f"{each['key']}={each['value']}" for each in conf),
                "PET_LOCAL_ADDR": HOST,
                "PYTHONUNBUFFERED": "1",
            },
            rendezvous=_command(store_container),
            rendezvous_env={**_environment(store_container), "PYTHONUNBUFFERED": "1"},
        )
    except (KeyError, StopIteration, ValueError, TypeError) as error:
        raise UsageError(
            f"objects ({', '.join(by_kind) or 'none'}) cannot run on this machine: "
            f"{type(error).__name__} at {error}; expected a rendezvous Job and a PyTorchJob with "
            "elasticPolicy and an integer nprocPerNode, as `launcher render` makes them, or an "
            "Indexed Job"
        ) from error


def _read_indexed(job: Mapping[str, Any]) -> Job:
    """The job of an Indexed Job alone."""
    spec, annotations = job["spec"], job["metadata"].get("annotations", {})
    indexes, pod = int(spec["completions"]), spec["template"]["spec"]
    (container,) = pod["containers"]
    limits = container.get("resources", {}).get("limits", {})
    return Job(
        name=job["metadata"]["name"],
        model=annotations.get(MODEL_ANNOTATION, ""),
        checkpoints=annotations.get(CHECKPOINTS_ANNOTATION, ""),
        labels=job["metadata"].get("labels", {}),
        workers=spec["parallelism"],
        least=1,
        most=indexes,
        grace_s=float(pod.get("terminationGracePeriodSeconds", 30)),
        num_processes=int(limits.get("nvidia.com/gpu", 0)),
        worker=_command(container),
        worker_env={**_environment(container), "PYTHONUNBUFFERED": "1"},
        rendezvous=(),
        rendezvous_env={},
        parts=Parts(indexes, spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]),
    )


def at_port(command: Sequence[str], port: int) -> tuple[str, ...]:
    """The rendezvous command with its port replaced, listening on this machine only."""
    if "--port" not in command:
        return tuple(command)
    place = command.index("--port") + 1
    return (*command[:place], str(port), *command[place + 1 :], "--host", HOST)


def clean_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The user's environment without what a torchrun around us has put there."""
    return {
        name: value
        for name, value in inherited.items()
        if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES
    }


def _command(container: Mapping[str, Any]) -> tuple[str, ...]:
    words: list[str] = [*container["command"], *container.get("args", ())]
    program, *rest = words
    return (*_PROGRAMS.get(program, (program,)), *rest)


def _environment(container: Mapping[str, Any]) -> dict[str, str]:
    """Plain values; what comes from secrets or the cluster is left to the user's environment."""
    return {
        each["name"]: str(each["value"])
        for each in container.get("env", ())
        if "value" in each and each["name"] not in _OF_THE_POD
    }
