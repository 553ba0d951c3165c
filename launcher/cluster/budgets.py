"""Budgets as people set them: what they allow, what is given back, what is kept free."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from launcher.budget.objects import iso
from launcher.cluster.client import Api
from launcher.cluster.kinds import BUDGET, Object
from launcher.errors import Conflict, NotFound

TRIES = 10
"""Others who change the same budget at the same moment."""


def all_of(api: Api) -> list[Object]:
    """Every budget, by name. Raises NotFound where the cluster knows none."""
    try:
        found = api.listing(BUDGET).items
    except NotFound as error:
        raise NotFound(
            "this cluster knows no budgets; install the launcher's chart or k8s/base there"
        ) from error
    return sorted(found, key=lambda each: str(each["metadata"]["name"]))


def get(api: Api, name: str) -> Object:
    """One budget. Raises NotFound, naming those there are."""
    found = api.find(BUDGET, name)
    if found is None:
        known = ", ".join(each["metadata"]["name"] for each in all_of(api)) or "none"
        raise NotFound(f"no budget {name!r}; there are: {known}")
    return found


def change(api: Api, name: str, spec: Mapping[str, Any]) -> tuple[Object | None, Object]:
    """Makes a budget, or changes these fields of it; returns it before, None if new, and after."""
    before = api.find(BUDGET, name)
    if before is not None:
        return before, api.patch(BUDGET, name, {"spec": dict(spec)})
    made = {
        "apiVersion": BUDGET.version, "kind": BUDGET.name,
        "metadata": {"name": name}, "spec": dict(spec),
    }  # fmt: skip
    return None, api.create(made)


def refund(
    api: Api, name: str, gpu_days: float, reason: str, author: str, pod_uid: str = "", key: str = ""
) -> tuple[str, bool]:
    """Asks for GPU time to be given back; returns the refund's id, and whether it is a new one.

    The same words make the same id, so a command that is repeated refunds once. key: another id,
    for a second refund of the same words.
    """
    words = (name, repr(gpu_days), reason, author, pod_uid)
    entry = {"gpuDays": gpu_days, "reason": reason, "author": author}
    entry |= {"podUID": pod_uid} if pod_uid else {}
    return _ask_once(api, name, "refunds", entry, key or _digest(words))


def correct(
    api: Api, name: str, pod_uid: str, end: str, reason: str, author: str
) -> tuple[str, bool]:
    """Asks for a pod's end to be set right; returns the correction's id, and whether it is a new
    one. end: RFC 3339."""
    entry = {"podUID": pod_uid, "end": end, "reason": reason, "author": author}
    key = _digest((name, pod_uid, end, reason, author))
    return _ask_once(api, name, "corrections", entry, key)


def _digest(words: Sequence[str]) -> str:
    """The same words make the same id."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _ask_once(
    api: Api, name: str, field: str, entry: Mapping[str, Any], key: str
) -> tuple[str, bool]:
    """Adds an entry with an id and its moment to a list of the spec; returns the id, and whether
    it was not there yet."""

    def add(spec: Object) -> Object | None:
        known = spec.get(field, [])
        if any(each["id"] == key for each in known):
            return None
        return {field: [*known, {"id": key, **entry, "at": iso(api.transport.clock.now_ms())}]}

    return key, _change_list(api, name, add)


def reserve(api: Api, name: str, job: str, gpu_days: float, until: str = "") -> bool:
    """Keeps GPU time free for a job of a name, in place of what was kept for it. Whether that
    changed anything. until: RFC 3339; empty is without an end."""
    wanted = {"job": job, "gpuDays": gpu_days} | ({"until": until} if until else {})

    def put(spec: Object) -> Object | None:
        known = spec.get("reservations", [])
        if wanted in known:
            return None
        return {"reservations": [*(each for each in known if each["job"] != job), wanted]}

    return _change_list(api, name, put)


def release(api: Api, name: str, job: str) -> None:
    """Keeps nothing free for a job of a name any more. Raises NotFound where nothing was."""

    def drop(spec: Object) -> Object | None:
        known = spec.get("reservations", [])
        kept = [each for each in known if each["job"] != job]
        return None if kept == known else {"reservations": kept}

    if not _change_list(api, name, drop):
        raise NotFound(f"budget {name!r} reserves nothing for a job {job!r}")


def _change_list(api: Api, name: str, changed: Any) -> bool:
    """Writes what `changed` makes of the spec over the version it was made of; None: nothing."""
    for _ in range(TRIES):
        found = get(api, name)
        spec = changed(found["spec"])
        if spec is None:
            return False
        version = found["metadata"]["resourceVersion"]
        try:
            api.patch(BUDGET, name, {"metadata": {"resourceVersion": version}, "spec": spec})
        except Conflict:
            continue
        return True
    raise Conflict(f"budget {name!r} changed {TRIES} times meanwhile; try again")
