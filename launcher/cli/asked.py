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
from launcher.request import Request

if TYPE_CHECKING:
    from launcher.resolve import Resolved


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


def _request(said: dict[str, Any]) -> Request:
    said |= {key: tuple(said[key] or ()) for key in ("overrides", "patches")}
    deadline = said.pop("deadline")
    said["deadline_s"] = math.ceil(seconds(deadline, "--deadline")) if deadline else None
    return Request(**said)


def resolved(request: Request) -> Resolved:
    """The job that a request means, its missing values as placeholders."""
    from launcher import local, settings
    from launcher.resolve import resolve

    known = settings.load(os.environ, Path.cwd())
    return resolve(request, known, local.default_checkpoints)


def complete(request: Request) -> Resolved:
    """The same; raises UsageError where something that a real run needs is not set."""
    found = resolved(request)
    if found.missing:
        raise UsageError("; ".join(found.missing))
    return found


def checked_objects(found: Resolved) -> list[dict[str, Any]]:
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
