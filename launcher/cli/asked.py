"""What a command line asks for: the options that describe a job, and the job they resolve to."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cli import options as opt
from launcher.cli.manners import seconds, tell, warn
from launcher.errors import LauncherError, UsageError
from launcher.request import IndexedRequest, Request

if TYPE_CHECKING:
    from launcher.placing import Resolved
    from launcher.request import Work
    from launcher.spec import IndexedSpec, JobSpec


def _asked(
    model: opt.Model,
    overrides: opt.Overrides = None,
    gpus: opt.Gpus = None,
    gpus_per_worker: opt.GpusPerWorker = None,
    min_gpus: opt.MinGpus = None,
    max_gpus: opt.MaxGpus = None,
    local: opt.Local = False,
    workers: opt.LocalWorkers = None,
    min_workers: opt.MinWorkers = None,
    max_workers: opt.MaxWorkers = None,
    name: opt.Name = "",
    image: opt.Image = "",
    data: opt.Data = "",
    val: opt.Val = "",
    checkpoints: opt.Checkpoints = "",
    namespace: opt.Namespace = "",
    budget: opt.Budget = "",
    deadline: opt.Deadline = "",
    stage: opt.Stage = "",
    queue: opt.Queue = "",
    backend: opt.BackendName = "",
    patches: opt.PatchFiles = None,
) -> None:
    """The options that describe a job, whatever is done with it."""


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `_asked` in place of its Request."""
    return opt.with_options(command, "request", _asked, _request, is_first=True)


def asking_without_model(command: Callable[..., None]) -> Callable[..., None]:
    """The same, listed after the command's own, which has a --model of its own or none."""

    def make(said: dict[str, Any]) -> Request:
        return _request(said | {"model": ""})

    return opt.with_options(command, "request", _asked, make, without=("model",))


def _indexed_asked(
    overrides: opt.PartOverrides = None,
    indexes: opt.Indexes = None,
    parallelism: opt.Parallelism = None,
    gpus: opt.PodGpus = None,
    cpus: opt.PodCpus = None,
    memory_gib: opt.PodMemory = None,
    local: opt.Local = False,
    name: opt.PartName = "",
    image: opt.Image = "",
    checkpoints: opt.Checkpoints = "",
    namespace: opt.Namespace = "",
    budget: opt.Budget = "",
    deadline: opt.Deadline = "",
    stage: opt.Stage = "",
    queue: opt.Queue = "",
    patches: opt.PatchFiles = None,
) -> None:
    """The options that describe a job of independent parts."""


def asking_indexed(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `_indexed_asked`, listed after its own, in place of its
    IndexedRequest."""
    return opt.with_options(
        command, "request", _indexed_asked, lambda said: IndexedRequest(**_worded(said))
    )


def _request(said: dict[str, Any]) -> Request:
    return Request(**_worded(said))


def _worded(said: dict[str, Any]) -> dict[str, Any]:
    """What was said as requests have it."""
    said |= {key: tuple(said[key] or ()) for key in ("overrides", "patches")}
    deadline = said.pop("deadline")
    said["deadline_s"] = math.ceil(seconds(deadline, "--deadline")) if deadline else None
    return said


def resolved(request: Request) -> Resolved[JobSpec]:
    """The job that a request means, its missing values as placeholders."""
    from launcher import local, settings
    from launcher.resolve import resolve

    known = settings.load(os.environ, Path.cwd())
    return resolve(request, known, local.default_checkpoints)


def resolved_indexed(request: IndexedRequest, work: Work) -> Resolved[IndexedSpec]:
    """The job of independent parts that a request means, likewise."""
    from launcher import local, settings
    from launcher.indexed import resolve_indexed

    known = settings.load(os.environ, Path.cwd())
    return resolve_indexed(request, work, known, local.default_checkpoints)


def complete(request: Request) -> Resolved[JobSpec]:
    """The same as `resolved`; raises UsageError where something that a real run needs is not
    set."""
    found = resolved(request)
    check_complete(found)
    return found


def check_complete(found: Resolved[Any]) -> None:
    """Raises UsageError where something that a real run needs is not set."""
    if found.missing:
        raise UsageError("; ".join(found.missing))


def checked_objects(found: Resolved[Any]) -> list[dict[str, Any]]:
    """The rendered objects, with notes told. Raises LauncherError for a field the CRD lacks."""
    from launcher import render

    for line in found.missing:
        warn(f"{line}; a placeholder stands in its place")
    for note in found.notes:
        tell(f"note: {note}")
    objects = render.render(found.spec)
    wrong = render.problems(objects)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise LauncherError(f"{wrong[0]}{more}")
    return objects
