"""From what a verb wants done in parts to an IndexedSpec: flags, overrides, settings, checked."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

from launcher import spec
from launcher.errors import UsageError
from launcher.jobfile import read_work
from launcher.placing import (
    Resolved,
    absolute,
    check_local,
    is_here,
    own_folder,
    place,
    required,
)
from launcher.request import IndexedRequest, Work
from launcher.settings import Settings
from launcher.spec import INDEXES_MOST, IndexedSpec, JobConfig, PodSize
from trainer.config import dump

CPU_SHM_GIB = 1
"""/dev/shm of a pod without GPUs."""


def resolve_indexed(
    request: IndexedRequest,
    work: Work,
    known: Settings,
    default_output: Callable[[str], str],
) -> Resolved[IndexedSpec]:
    """Raises UsageError or ConfigError, one line, for whatever cannot be meant.

    default_output: gives a local job's folder by its name, where none was set.
    """
    check_local(request)
    asked, config, patches = read_work(request, work)
    job = place(request, asked, known, work.stage)
    spec.check_platform(job)
    missing: list[str] = []
    if not request.local:
        job = dataclasses.replace(job, image=required("image", job.image, "--image", missing))
    indexes, parallelism = _counts(request, work)
    text = "\n".join([job.stage, job.budget, work.program, str(indexes), dump(config)])
    name = request.name or spec.default_name(work.stage, hashlib.sha256(text.encode()).hexdigest())
    spec.check_name(name)
    output = _output(request, known, config.output, name, missing, default_output)
    resolved = IndexedSpec(
        name=name,
        job=job,
        program=work.program,
        config=dataclasses.replace(config, output=output),
        indexes=indexes,
        parallelism=parallelism,
        size=_size(request, work, job),
        output=output,
        model=work.model,
        failures_most=spec.failures_most(indexes),
        local=request.local,
        patches=patches,
    )
    return Resolved(resolved, tuple(missing), tuple(_notes(resolved)))


def _counts(request: IndexedRequest, work: Work) -> tuple[int, int]:
    """Indexes, and how many of them at once."""
    indexes = work.indexes if request.indexes is None else request.indexes
    if not 1 <= indexes <= INDEXES_MOST:
        raise UsageError(f"--indexes is {indexes}, but 1 to {INDEXES_MOST} are allowed")
    parallelism = work.parallelism if request.parallelism is None else request.parallelism
    if parallelism < 1:
        raise UsageError(f"--parallelism is {parallelism}, but at least 1 is allowed")
    return indexes, min(indexes, parallelism)


def _size(request: IndexedRequest, work: Work, job: JobConfig) -> PodSize:
    gpus = work.gpus if request.gpus is None else request.gpus
    if gpus < 0:
        raise UsageError(f"--gpus is {gpus}; give 0 or more")
    size = PodSize(
        gpus=gpus,
        cpus=_given("--cpus", request.cpus, gpus * job.cpu_per_gpu or work.cpus),
        memory_gib=_given(
            "--memory-gib", request.memory_gib, gpus * job.memory_per_gpu_gib or work.memory_gib
        ),
        shm_gib=gpus * job.shm_per_gpu_gib or CPU_SHM_GIB,
        scratch_gib=job.scratch_gib,
    )
    if size.shm_gib >= size.memory_gib:
        raise UsageError(
            f"--memory-gib is {size.memory_gib}, but /dev/shm takes {size.shm_gib} of it; give "
            "more, or lower job.shm_per_gpu_gib"
        )
    return size


def _given(flag: str, asked: int | None, otherwise: int) -> int:
    if asked is not None and asked < 1:
        raise UsageError(f"{flag} is {asked}, but at least 1 is allowed")
    return otherwise if asked is None else asked


def _output(
    request: IndexedRequest,
    known: Settings,
    given: str,
    name: str,
    missing: list[str],
    default_output: Callable[[str], str],
) -> str:
    """What the configuration says; else `<checkpoints>/<name>`."""
    if given:
        return absolute(request, spec.check_address(given, "output"))
    return own_folder(request, known, name, missing, default_output)


def _notes(resolved: IndexedSpec) -> list[str]:
    if resolved.local or not is_here(resolved.output):
        return []
    return [f"output {resolved.output} is a path: pods see only what their image holds"]
