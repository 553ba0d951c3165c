"""What every kind of job has, whatever runs in it: what is rendered alike for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from launcher.spec.config import JobConfig
from launcher.spec.patches import Patch


@dataclass(frozen=True)
class PodSize:
    """What one pod is given."""

    gpus: int
    """0: it computes on the CPU."""
    cpus: int
    """Cores asked for; it may use more where there are any."""
    memory_gib: int
    """Asked for and the limit."""
    shm_gib: int
    """Of that memory, what /dev/shm may take."""
    scratch_gib: int


class Spec(Protocol):
    """One job, resolved: what `render` needs of any kind."""

    @property
    def name(self) -> str: ...
    @property
    def job(self) -> JobConfig: ...
    @property
    def local(self) -> bool:
        """On this machine: no resources, and nothing that only a pod's file system has."""

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The user's own changes of the objects, applied last and in this order."""

    @property
    def program(self) -> str:
        """The trainer's module that the pods run."""

    @property
    def config(self) -> Any:
        """What the program is told: a dataclass of trainer.config."""

    @property
    def model(self) -> str:
        """The network or encoder that it is about; empty: none."""

    @property
    def output(self) -> str:
        """Address of the job's own folder."""

    @property
    def size(self) -> PodSize:
        """Of each pod."""

    @property
    def pods(self) -> int:
        """As many as run at once."""
