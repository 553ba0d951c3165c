"""What a command line asks for, before recipe and settings have been looked at.

Apart from `launcher.resolve`, so that help does not load the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tuned:
    """A fine-tuning's run, which takes the place of a recipe's."""

    run: str
    """Its configuration as YAML, before overrides."""
    source: str
    """What it is made of, for errors."""
    network: str
    """The only network that it may train, in words (trainer.config.ModelConfig.network)."""


@dataclass(frozen=True)
class Request:
    """What the command line says; None or "" is not said."""

    model: str
    overrides: tuple[str, ...] = ()
    local: bool = False
    gpus: int | None = None
    gpus_per_worker: int | None = None
    min_gpus: int | None = None
    max_gpus: int | None = None
    workers: int | None = None
    min_workers: int | None = None
    max_workers: int | None = None
    name: str = ""
    image: str = ""
    data: str = ""
    val: str = ""
    checkpoints: str = ""
    namespace: str = ""
    budget: str = ""
    deadline_s: int | None = None
    stage: str = ""
    queue: str = ""
    backend: str = ""
    patches: tuple[str, ...] = ()
    """Paths of patch files, applied in this order after those of the job file."""
    tuned: Tuned | None = None
    """The run in place of the recipe's, which then gives the job alone."""
