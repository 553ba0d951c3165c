"""What a command line asks for, before recipe and settings have been looked at.

Apart from `launcher.resolve`, so that help does not load the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tuned:
    """A fine-tuning's run, which takes the place of a recipe's."""

    run: str
    """Its configuration as YAML, before overrides."""
    source: str
    """What it is made of, for errors."""
    network: str
    """The only network that it may train, in words (trainer.config.ModelConfig.network)."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a command line says of any kind of job; None or "" is not said."""

    overrides: tuple[str, ...] = ()
    local: bool = False
    name: str = ""
    image: str = ""
    checkpoints: str = ""
    namespace: str = ""
    budget: str = ""
    deadline_s: int | None = None
    stage: str = ""
    queue: str = ""
    patches: tuple[str, ...] = ()
    """Paths of patch files, applied in this order after those of the job file."""


@dataclass(frozen=True)
class Request(Asked):
    """A training run."""

    model: str
    gpus: int | None = None
    gpus_per_worker: int | None = None
    min_gpus: int | None = None
    max_gpus: int | None = None
    workers: int | None = None
    min_workers: int | None = None
    max_workers: int | None = None
    data: str = ""
    val: str = ""
    backend: str = ""
    tuned: Tuned | None = None
    """The run in place of the recipe's, which then gives the job alone."""


@dataclass(frozen=True, kw_only=True)
class IndexedRequest(Asked):
    """A job of independent parts."""

    indexes: int | None = None
    """Parts that are asked for; None: as many as the verb finds right."""
    parallelism: int | None = None
    gpus: int | None = None
    """Of each pod."""
    cpus: int | None = None
    memory_gib: int | None = None


@dataclass(frozen=True)
class Work:
    """What the indexes of a job do, as a verb makes it of its own options."""

    program: str
    """The trainer's module; each pod runs `python -m PROGRAM`."""
    config: Any
    """What every index is told: a dataclass of trainer.config. Where its `output`, an address, is
    empty, that becomes <checkpoints>/<the job's name>."""
    indexes: int
    """Parts, unless the request says how many."""
    stage: str
    """For accounting, and the beginning of the job's name."""
    model: str = ""
    """The network or encoder that it is about; empty: none."""
    gpus: int = 0
    """Of each pod, as all below, unless the request says so."""
    cpus: int = 4
    """Asked for where there are no GPUs: else job.cpu_per_gpu counts."""
    memory_gib: int = 16
    """Likewise."""
    parallelism: int = 8
    """Pods at once; never more than indexes."""
