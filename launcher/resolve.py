"""From what was asked for to a JobSpec: recipe, overrides, flags and settings, each checked.

For a value that several give: flag or override, then the job file, then the settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

from launcher import spec
from launcher.errors import UsageError
from launcher.jobfile import read_job_file, recipes
from launcher.placing import (
    Resolved,
    absolute,
    check_local,
    is_here,
    own_folder,
    place,
    required,
)
from launcher.request import Request
from launcher.settings import Settings
from launcher.spec import JobConfig, JobSpec, RendezvousConfig, Workers
from trainer.config import FinetuneConfig, LogConfig, TrainConfig, dump

__all__ = ["Resolved", "recipes", "resolve"]


def resolve(
    request: Request, known: Settings, default_checkpoints: Callable[[str], str]
) -> Resolved[JobSpec]:
    """Raises UsageError or ConfigError, one line, for whatever cannot be meant.

    default_checkpoints: gives a local run's folder by the job's name, where none was set.
    """
    _check_flags(request)
    asked = read_job_file(request)
    run = _started(request, asked.run)
    usual_stage = "finetune" if isinstance(run, FinetuneConfig) else "train"
    job = place(request, _with_backend(request, asked.job), known, usual_stage)
    spec.check_platform(job)
    workers, ranks = _size(request, job)
    missing: list[str] = []
    if not request.local:
        job = dataclasses.replace(job, image=required("image", job.image, "--image", missing))
    else:
        job, run = _for_this_machine(request, job, run)
    train = _address(request, "data", run.data.train, request.data or known.get("data"))
    val = _address(request, "val", run.data.val, request.val or known.get("val"))
    data = dataclasses.replace(run.data, train=required("data", train, "--data", missing), val=val)
    run = dataclasses.replace(run, data=data)
    most_chars = spec.name_most_chars(job.backend, workers.most)
    digest = _digest(job, workers, run)
    name = request.name or spec.default_name(run.model.name, digest, most_chars)
    spec.check_name(name, most_chars=most_chars)
    address = _run_folder(request, known, run, name, missing, default_checkpoints)
    run = dataclasses.replace(
        run, name=name, checkpoint=dataclasses.replace(run.checkpoint, address=address)
    )
    resolved = JobSpec(name, job, workers, ranks, run, request.local, asked.patches)
    _check_together(resolved, asked.source)
    return Resolved(resolved, tuple(missing), tuple(_notes(resolved)))


def _started(request: Request, run: TrainConfig) -> TrainConfig:
    """The run with the address that it begins from checked, where it begins from one."""
    if not isinstance(run, FinetuneConfig):
        return run
    address = absolute(request, spec.check_address(run.start.address, "start.address"))
    return dataclasses.replace(run, start=dataclasses.replace(run.start, address=address))


def _for_this_machine(
    request: Request, job: JobConfig, run: TrainConfig
) -> tuple[JobConfig, TrainConfig]:
    """Defaults that suit processes beside each other, where nothing else was asked for."""
    usual, local = RendezvousConfig(), spec.LOCAL_RENDEZVOUS
    untouched = {
        field.name: getattr(local, field.name)
        for field in dataclasses.fields(RendezvousConfig)
        if getattr(job.rendezvous, field.name) == getattr(usual, field.name)
    }
    job = dataclasses.replace(job, rendezvous=dataclasses.replace(job.rendezvous, **untouched))
    given = any(override.startswith("log.metrics_port=") for override in request.overrides)
    if not given and run.log.metrics_port == LogConfig().metrics_port:
        # A port belongs to the whole machine: two runs at once would meet there.
        run = dataclasses.replace(run, log=dataclasses.replace(run.log, metrics_port=0))
    return job, run


def _check_flags(request: Request) -> None:
    """Counts are positive, and workers are counted here, GPUs on a cluster."""
    gpus, workers = ("gpus", "min_gpus", "max_gpus"), ("workers", "min_workers", "max_workers")
    for field in (*gpus, *workers, "gpus_per_worker"):
        count = getattr(request, field)
        if count is not None and count < 1:
            raise UsageError(f"{_flag(field)} is {count}, but at least 1 is allowed")
    for field, instead in zip(
        *((gpus, workers) if request.local else (workers, gpus)), strict=True
    ):
        if getattr(request, field) is not None:
            where = "goes without --local" if request.local else "needs --local"
            raise UsageError(f"{_flag(field)} {where}; give {_flag(instead)} in its place")
    check_local(request)


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _with_backend(request: Request, job: JobConfig) -> JobConfig:
    chosen = request.backend or job.backend
    if chosen not in spec.BACKENDS:
        raise UsageError(
            f"--backend {request.backend!r} is unknown; allowed are {', '.join(spec.BACKENDS)}"
        )
    return dataclasses.replace(job, backend=chosen)


def _size(request: Request, job: JobConfig) -> tuple[Workers, int]:
    """Workers, and ranks of each."""
    if request.local:
        if job.backend == "trainjob":
            raise UsageError("backend trainjob goes without --local; leave it out on this machine")
        workers = spec.local_workers(
            2 if request.workers is None else request.workers,
            request.min_workers,
            request.max_workers,
        )
        return workers, request.gpus_per_worker or 1
    per_worker = request.gpus_per_worker or job.gpus_per_worker
    if job.backend == "trainjob":
        gpus = job.gpus if request.gpus is None else request.gpus
        _check_fixed(request, job, gpus)
        return spec.gpu_workers(gpus, per_worker, gpus, gpus), per_worker
    if request.gpus is not None:
        # The recipe's bounds belong to the recipe's number.
        workers = spec.gpu_workers(
            request.gpus, per_worker, request.min_gpus or 0, request.max_gpus or 0
        )
    else:
        workers = spec.gpu_workers(
            job.gpus, per_worker, request.min_gpus or job.min_gpus, request.max_gpus or job.max_gpus
        )
    return workers, per_worker


def _check_fixed(request: Request, job: JobConfig, gpus: int) -> None:
    for flag, count in (
        ("--min-gpus", request.min_gpus),
        ("--max-gpus", request.max_gpus),
        ("job.min_gpus", job.min_gpus),
        ("job.max_gpus", job.max_gpus),
    ):
        if count and count != gpus:
            raise UsageError(
                f"{flag} is {count}, but a TrainJob keeps its size, {gpus} GPUs: Trainer v2 is not "
                "elastic yet; leave it out, or give --backend pytorchjob"
            )


def _address(request: Request, key: str, of_file: str, otherwise: str) -> str:
    """An address by precedence; on this machine a path is made absolute."""
    flag = getattr(request, key)
    given = any(
        o.startswith(f"data.{'train' if key == 'data' else 'val'}=") for o in request.overrides
    )
    if flag and given:
        raise UsageError(
            f"--{key} and the override data.{'train' if key == 'data' else 'val'} are both given; "
            "give one of them"
        )
    chosen = spec.check_address(flag or of_file or otherwise, f"--{key}")
    return absolute(request, chosen)


def _run_folder(
    request: Request,
    known: Settings,
    run: TrainConfig,
    name: str,
    missing: list[str],
    default_checkpoints: Callable[[str], str],
) -> str:
    """`<checkpoints>/<name>`, or what the job file or an override calls the run's folder itself."""
    if request.checkpoints and run.checkpoint.address:
        raise UsageError(
            f"--checkpoints and checkpoint.address ({run.checkpoint.address}) are both given; "
            "give one of them"
        )
    if run.checkpoint.address:
        return absolute(request, spec.check_address(run.checkpoint.address, "checkpoint.address"))
    return own_folder(request, known, name, missing, default_checkpoints)


def _digest(job: JobConfig, workers: Workers, run: TrainConfig) -> str:
    """The same for the same job, so that the same command means the same job again."""
    text = "\n".join([job.stage, job.budget, repr(workers), dump(run)])
    return hashlib.sha256(text.encode()).hexdigest()


def _check_together(resolved: JobSpec, source: str) -> None:
    """What only shows once everything is known."""
    job, run = resolved.job, resolved.run
    if isinstance(run, FinetuneConfig) and _same(run.start.address, run.checkpoint.address):
        raise UsageError(
            f"the run would begin from {run.start.address} and be kept there too; give another "
            "--name or --checkpoints"
        )
    ranks = resolved.workers.most * resolved.ranks_per_worker
    if ranks > run.data.lanes:
        raise UsageError(
            f"{resolved.workers.most} workers have {ranks} ranks, but data.lanes of {source} is "
            f"{run.data.lanes} and each rank needs one; lower the size or raise data.lanes"
        )
    if job.shutdown_timeout_s >= job.grace_s:
        raise UsageError(
            f"job.shutdown_timeout_s ({job.shutdown_timeout_s}) of {source} must be below "
            f"job.grace_s ({job.grace_s}), or a pod is killed before its ranks have left"
        )
    if run.checkpoint.deadline_s >= job.shutdown_timeout_s:
        raise UsageError(
            f"checkpoint.deadline_s ({run.checkpoint.deadline_s:g}) of {source} must be below "
            f"job.shutdown_timeout_s ({job.shutdown_timeout_s}), or the last save is cut off"
        )
    if not resolved.local and 0 < job.hang_s <= run.world.stall_s:
        raise UsageError(
            f"job.hang_s ({job.hang_s}) of {source} must be above world.stall_s "
            f"({run.world.stall_s:g}), whose watchdog tells why a worker hangs; or 0: off"
        )
    if job.shm_per_gpu_gib >= job.memory_per_gpu_gib:
        raise UsageError(
            f"job.shm_per_gpu_gib ({job.shm_per_gpu_gib}) of {source} must be below "
            f"job.memory_per_gpu_gib ({job.memory_per_gpu_gib}), since it counts against it"
        )


def _same(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def _notes(resolved: JobSpec) -> list[str]:
    notes = []
    uneven = spec.uneven_worlds(resolved)
    if uneven:
        sizes = ", ".join(f"{workers} ({ranks}): {share:.1%}" for workers, ranks, share in uneven)
        notes.append(
            f"{resolved.run.data.lanes} lanes do not divide evenly among workers (ranks); "
            f"share of the ranks' time used: {sizes}"
        )
    if resolved.local and resolved.patches:
        notes.append("the job file's patches change a cluster's objects; here they do nothing")
    if resolved.job.queue and resolved.workers.most > resolved.workers.desired:
        notes.append(
            "Kueue evicts and queues a job anew whose number of workers changes: --max-gpus helps "
            "nothing while it is admitted"
        )
    if not resolved.local:
        run = resolved.run
        for key, address in (
            ("data.train", run.data.train),
            ("data.val", run.data.val),
            ("checkpoint.address", run.checkpoint.address),
            ("start.address", run.start.address if isinstance(run, FinetuneConfig) else ""),
        ):
            if is_here(address):
                notes.append(f"{key} {address} is a path: pods see only what their image holds")
    return notes
