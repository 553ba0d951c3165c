"""Where a job runs and on whose account, of flags, job file and settings: for every kind of job.

For a value that several give: flag or override, then the job file, then the settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from launcher import settings, spec
from launcher.errors import UsageError
from launcher.request import Asked
from launcher.settings import Settings
from launcher.spec import IndexedSpec, JobConfig, JobSpec

PLACEHOLDER = "MISSING"
"""Stands in a dry run where an image or an address has not been given."""

S_co = TypeVar("S_co", JobSpec, IndexedSpec, covariant=True)


@dataclass(frozen=True)
class Resolved(Generic[S_co]):
    """A job and what a real submit would refuse it for."""

    spec: S_co
    missing: tuple[str, ...]
    """A line for each value that stands as a placeholder: what it is and how to give it."""
    notes: tuple[str, ...]
    """What the user should know, a line each."""


_LISTS = ("image_pull_secrets", "tolerations")
_PROXIES = {"http": "http_proxy", "https": "https_proxy", "bypass": "no_proxy"}
"""Keys of job.proxy with the settings of the same meaning."""


def place(request: Asked, job: JobConfig, known: Settings, usual_stage: str) -> JobConfig:
    """The job with flags over its own values over the settings, each checked. Raises UsageError."""
    chosen: dict[str, Any] = {}
    for key in (
        "image",
        "namespace",
        "budget",
        "user",
        "queue",
        "s3_secret",
        "priority_class",
        "gpu_product",
        "service_account",
        "ca_bundle",
    ):
        chosen[key] = getattr(request, key, "") or getattr(job, key) or known.get(key)
    for key in _LISTS:
        words = known.get(key).split(",")
        chosen[key] = getattr(job, key) or tuple(word.strip() for word in words if word.strip())
    proxy = {key: getattr(job.proxy, key) or known.get(other) for key, other in _PROXIES.items()}
    chosen["proxy"] = dataclasses.replace(job.proxy, **proxy)
    if request.deadline_s is not None:
        chosen["deadline_s"] = request.deadline_s
    chosen["stage"] = request.stage or job.stage or known.get("stage") or usual_stage
    for key in ("namespace", "queue", "s3_secret", "priority_class"):
        spec.check_object_name(chosen[key], key)
    chosen["user"] = spec.as_label(chosen["user"])  # a login may hold what no label may
    for key in ("budget", "stage", "queue"):
        spec.check_label(chosen[key], key)
    if any(character.isspace() for character in chosen["image"]):
        raise UsageError(
            f"image {chosen['image']!r} holds a space; give registry/name:tag or @digest"
        )
    return dataclasses.replace(job, **chosen)


def check_local(request: Asked) -> None:
    """Raises UsageError for flags that mean a cluster, of a job on this machine."""
    if request.local and request.deadline_s is not None:
        raise UsageError("--deadline goes without --local: only a cluster's controller ends jobs")
    if request.local and request.patches:
        raise UsageError(
            f"--patch {request.patches[0]} goes without --local; patches change a cluster's objects"
        )


def absolute(request: Asked, address: str) -> str:
    """An address as the job's programs need it: on this machine a path is made absolute."""
    if request.local and address and "://" not in address:
        return f"file://{Path(address).expanduser().resolve()}"
    return address


def required(key: str, value: str, flag: str, missing: list[str]) -> str:
    """The value; else a placeholder, and a line in `missing` that says how to give it."""
    if value:
        return value
    missing.append(
        f"{key} is not set; give {flag}, the variable {settings.variable(key)}, "
        f"or {key} in {settings.PROJECT_FILE}"
    )
    return f"{PLACEHOLDER}-{key}"


def own_folder(
    request: Asked, known: Settings, name: str, missing: list[str], otherwise: Callable[[str], str]
) -> str:
    """`<checkpoints>/<name>`, by flag or setting; else a placeholder, and a line in `missing`.

    otherwise: gives a local job's folder by its name, where nothing was set.
    """
    base = spec.check_address(request.checkpoints or known.get("checkpoints"), "--checkpoints")
    if not base and request.local:
        return otherwise(name)
    base = required("checkpoints", absolute(request, base), "--checkpoints", missing)
    return f"{base.rstrip('/')}/{name}"


def is_here(address: str) -> bool:
    """Whether an address is a path: pods see only what their image holds."""
    return bool(address) and not address.startswith(("s3://", PLACEHOLDER))
