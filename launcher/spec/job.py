"""One job, resolved, and the arithmetic of its size."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.errors import UsageError
from launcher.spec.common import PodSize
from launcher.spec.config import Backend, JobConfig
from launcher.spec.names import NAME_MOST_CHARS
from launcher.spec.patches import Patch
from trainer.config import FinetuneConfig, TrainConfig, lane_balance

PROGRAMS: dict[type[TrainConfig], str] = {
    TrainConfig: "trainer.train",
    FinetuneConfig: "trainer.finetune",
}
"""The trainer's module that runs each kind of configuration."""


@dataclass(frozen=True)
class Workers:
    """How many workers a job may run with."""

    least: int
    """The job starts when this many are placed, and waits below it."""
    desired: int
    most: int
    """Never more than this; each is billed."""


@dataclass(frozen=True)
class JobSpec:
    """One job, resolved: everything `render` needs."""

    name: str
    job: JobConfig
    workers: Workers
    ranks_per_worker: int
    """Processes of one worker; on a cluster one for each of its GPUs."""
    run: TrainConfig
    local: bool = False
    """On this machine: no GPU resources, and nothing that only a pod's file system has."""
    patches: tuple[Patch, ...] = ()
    """The user's own changes of the objects, applied last and in this order."""

    @property
    def program(self) -> str:
        """The trainer's module that the workers run."""
        return PROGRAMS[type(self.run)]

    @property
    def config(self) -> TrainConfig:
        """What the program is told."""
        return self.run

    @property
    def model(self) -> str:
        """The network."""
        return self.run.model.name

    @property
    def output(self) -> str:
        """Address of the run's own folder."""
        return self.run.checkpoint.address

    @property
    def size(self) -> PodSize:
        """Of a worker's pod."""
        job, gpus = self.job, self.ranks_per_worker
        cache_gib = -(-self.run.data.cache_bytes // (1 << 30))
        return PodSize(
            gpus=gpus,
            cpus=job.cpu_per_gpu * gpus,
            memory_gib=job.memory_per_gpu_gib * gpus,
            shm_gib=job.shm_per_gpu_gib * gpus,
            scratch_gib=cache_gib + job.scratch_gib,
        )

    @property
    def pods(self) -> int:
        """Workers wanted."""
        return self.workers.desired


def gpu_workers(gpus: int, per_worker: int, min_gpus: int = 0, max_gpus: int = 0) -> Workers:
    """Workers of a number of GPUs; 0 for min_gpus means half, for max_gpus gpus itself.

    Half of an odd number of workers is rounded down, but to 1 at least.
    """
    for flag, count in (("--min-gpus", min_gpus), ("--gpus", gpus), ("--max-gpus", max_gpus)):
        if count % per_worker:
            low, high = count // per_worker * per_worker, -(-count // per_worker) * per_worker
            near = f"{high}" if low == 0 else f"{low} or {high}"
            raise UsageError(
                f"{flag} {count} is no multiple of --gpus-per-worker {per_worker}; give {near}"
            )
    desired = gpus // per_worker
    least = min_gpus // per_worker or max(1, desired // 2)
    most = max_gpus // per_worker or desired
    return _ordered(Workers(least, desired, most), "gpus", per_worker)


def local_workers(workers: int, least: int | None = None, most: int | None = None) -> Workers:
    """Workers on this machine; by default half of them must be there and no more may come."""
    chosen = Workers(
        max(1, workers // 2) if least is None else least, workers, workers if most is None else most
    )
    return _ordered(chosen, "workers", 1)


def _ordered(workers: Workers, unit: str, per_worker: int) -> Workers:
    least, desired, most = (
        count * per_worker for count in (workers.least, workers.desired, workers.most)
    )
    for flag, count in ((f"--min-{unit}", least), (f"--{unit}", desired)):
        if count < 1:
            raise UsageError(f"{flag} is {count}; at least {per_worker} are needed")
    if least > desired:
        raise UsageError(
            f"--min-{unit} ({least}) is above --{unit} ({desired}); lower it or raise --{unit}"
        )
    if desired > most:
        raise UsageError(
            f"--max-{unit} ({most}) is below --{unit} ({desired}); raise it or lower --{unit}"
        )
    return workers


def name_most_chars(backend: Backend, workers: int) -> int:
    """How long a job's name may be, so that its pods' names are DNS labels of at most 63.

    Pods are called `<name>-worker-<index>`, those of a TrainJob `<name>-node-0-<index>-<5 more>`,
    which JobSet's webhook checks.
    """
    if backend == "trainjob":
        return 63 - len(f"-node-0-{workers - 1}-12345")
    return NAME_MOST_CHARS


def uneven_worlds(spec: JobSpec) -> list[tuple[int, int, float]]:
    """(workers, ranks, used share) of each size the job may have at which lanes do not divide.

    The share is that of the ranks' time which is used: the fullest rank sets the pace.
    """
    sizes = []
    for workers in range(spec.workers.least, spec.workers.most + 1):
        ranks = workers * spec.ranks_per_worker
        share = lane_balance(spec.run.data.lanes, ranks)
        if share < 1:
            sizes.append((workers, ranks, share))
    return sizes
