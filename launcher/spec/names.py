"""Names, labels and addresses: which there are, and what may be one."""

from __future__ import annotations

import re

from launcher.errors import UsageError

DOMAIN = "launcher.dev"
JOB_LABEL = f"{DOMAIN}/job"
BUDGET_LABEL = f"{DOMAIN}/budget"
STAGE_LABEL = f"{DOMAIN}/stage"
MODEL_LABEL = f"{DOMAIN}/model"
USER_LABEL = f"{DOMAIN}/user"
KIND_LABEL = f"{DOMAIN}/kind"
"""On a batch/v1 Job that is a job by itself, and no part of one: which kind."""
INDEXED = "indexed"
PROGRAM = "program"
"""What the container of an index is called."""
MODEL_ANNOTATION = f"{DOMAIN}/model"
CHECKPOINTS_ANNOTATION = f"{DOMAIN}/checkpoints"
"""Annotation with the address of the run's own folder."""

DEADLINE_ANNOTATION = f"{DOMAIN}/deadline-s"
"""The controller ends the job so many seconds after its first start; 0: never."""
RESTARTS_ALLOWED_ANNOTATION = f"{DOMAIN}/restarts-allowed"
"""The controller ends the job that loses more workers than this within the window."""
RESTART_WINDOW_ANNOTATION = f"{DOMAIN}/restart-window-s"
HANG_ANNOTATION = f"{DOMAIN}/hang-s"
"""The controller starts the workers again after so many seconds without an update; 0: never."""

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Kueue's: the LocalQueue that admits the job."""

NAME_MOST_CHARS = 50
"""`<name>-rendezvous` and `<name>-worker-<index>` must stay DNS labels of at most 63 characters."""

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def check_name(name: str, where: str = "--name", most_chars: int = NAME_MOST_CHARS) -> str:
    """A job's name: DNS-1035, since Services and pods are called after it."""
    if len(name) > most_chars or not _DNS_1035.fullmatch(name):
        raise UsageError(
            f"{where} {name!r} cannot name a job; allowed are at most {most_chars} lower-case "
            "letters, digits and '-', a letter first and no '-' last"
        )
    return name


def default_name(model: str, digest: str, most_chars: int = NAME_MOST_CHARS) -> str:
    """`<model>-<6 hex digits>`: the same job has the same name, another one another."""
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    slug = slug if slug[:1].isalpha() else f"m-{slug}".rstrip("-")
    return f"{slug[: most_chars - 7].rstrip('-')}-{digest[:6]}"


def check_label(value: str, where: str) -> str:
    """A value that becomes a label, such as a budget's name; empty is none."""
    if value and not _LABEL.fullmatch(value):
        raise UsageError(
            f"{where} {value!r} cannot be a label; allowed are at most 63 letters, digits, "
            "'-', '_' and '.', a letter or digit first and last"
        )
    return value


def as_label(text: str) -> str:
    """Any text as near to itself as a label can be: a network's or a person's name."""
    return re.sub(r"[^-A-Za-z0-9_.]+", "-", text)[:63].strip("-_.")


def check_object_name(value: str, where: str) -> str:
    """The name of another object (namespace, Secret, queue, ...); empty is none."""
    parts = value.split(".") if value else []
    if len(value) > 253 or not all(_DNS_1123.fullmatch(part) for part in parts):
        raise UsageError(
            f"{where} {value!r} cannot name an object; allowed are lower-case letters, digits, "
            "'-' and '.', a letter or digit first and last"
        )
    return value


def check_address(address: str, where: str) -> str:
    """An address of the object store: s3://bucket/prefix, file:///path or a path; no secrets."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    if scheme not in ("file", "s3"):
        raise UsageError(
            f"{where} {address!r}: {scheme}:// is unknown; allowed are s3://bucket/prefix, "
            "file:///path and a path"
        )
    if scheme == "file" and not rest.startswith("/"):
        raise UsageError(f"{where} {address!r}: file:// takes an absolute path, as file:///data")
    bucket = rest.split("/", 1)[0]
    if scheme == "s3" and "@" in bucket:
        raise UsageError(
            f"{where}: credentials do not belong into an address; on a cluster name a Secret by "
            "s3_secret, here use AWS_* variables or ~/.aws"
        )
    if scheme == "s3" and not bucket:
        raise UsageError(f"{where} {address!r} names no bucket; give s3://bucket/prefix")
    return address
