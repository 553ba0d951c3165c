"""A job of independent parts: each index of an Indexed Job does its share, and may be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launcher.spec.common import PodSize
from launcher.spec.config import JobConfig
from launcher.spec.patches import Patch

INDEXES_MOST = 10_000
"""Kubernetes takes more, but with narrower bounds on all else."""
RETRIES = 3


@dataclass(frozen=True)
class IndexedSpec:
    """One Indexed Job, resolved: everything `render` needs."""

    name: str
    job: JobConfig
    program: str
    """The trainer's module that each pod runs."""
    config: Any
    """What every index is told: a dataclass that `trainer.config.dump` can write."""
    indexes: int
    parallelism: int
    """Pods at once, at most; each takes one index."""
    size: PodSize
    output: str
    """Address of what the program writes."""
    model: str = ""
    """The network or encoder that it is about; empty: none."""
    retries: int = RETRIES
    """How often an index that failed is started again."""
    failures_most: int = 0
    """Indexes that may fail for good before the others are ended too; the job counts as failed
    either way."""
    local: bool = False
    """On this machine: no resources, and nothing that only a pod's file system has."""
    patches: tuple[Patch, ...] = ()
    """The user's own changes of the objects, applied last and in this order."""

    @property
    def pods(self) -> int:
        """As many as run at once."""
        return self.parallelism


def failures_most(indexes: int) -> int:
    """A tenth of the indexes: one odd part does not end hundreds that are well, and a defect that
    meets them all ends the job early."""
    return indexes // 10
