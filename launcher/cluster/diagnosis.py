"""Has the cluster what jobs need? Each question asked of the API server, each with its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from launcher.budget.pods import moment_ms
from launcher.cluster.client import Api
from launcher.cluster.fields import held
from launcher.cluster.kinds import EVENT, JOB, NODE, POD, PYTORCHJOB, SERVICE, Kind
from launcher.cluster.ledger import held_pods
from launcher.cluster.objects import workloads
from launcher.cluster.state import GPU
from launcher.errors import Forbidden, LauncherError, NotFound
from launcher.spec import JOB_LABEL

Result = Literal["ok", "warning", "failed"]

RIGHTS: tuple[tuple[str, Kind, str], ...] = (
    ("create", PYTORCHJOB, ""),
    ("get", PYTORCHJOB, ""),
    ("list", PYTORCHJOB, ""),
    ("watch", PYTORCHJOB, ""),
    ("patch", PYTORCHJOB, ""),
    ("delete", PYTORCHJOB, ""),
    ("patch", PYTORCHJOB, "scale"),
    ("create", JOB, ""),
    ("list", JOB, ""),
    ("watch", JOB, ""),
    ("patch", JOB, ""),
    ("delete", JOB, ""),
    ("create", SERVICE, ""),
    ("patch", SERVICE, ""),
    ("delete", SERVICE, ""),
    ("list", POD, ""),
    ("get", POD, "log"),
    ("list", EVENT, ""),
)
"""What submit, status, logs, scale, cancel and delete ask for."""

HELD_MOST_MS = 120_000
"""A ledger that works lets a pod go within seconds of its end."""


@dataclass(frozen=True)
class Finding:
    """One answer."""

    name: str
    result: Result
    detail: str


def checks(api: Api) -> list[Finding]:
    """All answers; where the server cannot be reached, that one alone."""
    first = _asked("cluster", lambda: _version(api))
    if first.result == "failed":
        return [first]
    return [first, *_further(api)]


def _further(api: Api) -> Iterator[Finding]:
    yield _asked("operator", lambda: _operator(api))
    yield _asked("rights", lambda: _rights(api))
    yield _asked("nodes", lambda: _nodes(api))
    yield _asked("kueue", lambda: _kueue(api))
    yield _asked("stranded pods", lambda: _stranded(api))
    yield _asked("ledger", lambda: _held(api))


def _asked(name: str, ask: Callable[[], tuple[Result, str]]) -> Finding:
    try:
        result, detail = ask()
    except LauncherError as error:
        return Finding(name, "failed", " ".join(str(error).split()))
    return Finding(name, result, detail)


def _version(api: Api) -> tuple[Result, str]:
    version = api.ask("/version").get("gitVersion", "unknown")
    where = f"{api.transport.host} ({api.transport.context}), namespace {api.namespace}"
    return "ok", f"{version} at {where}"


def _operator(api: Api) -> tuple[Result, str]:
    try:
        api.listing(PYTORCHJOB)
    except NotFound:
        return "failed", (
            "the cluster knows no PyTorchJob (kubeflow.org/v1); install the training operator 1.9"
        )
    return "ok", "PyTorchJob kubeflow.org/v1 is served"


def _rights(api: Api) -> tuple[Result, str]:
    denied = []
    for verb, kind, subresource in RIGHTS:
        if not api.allowed(verb, kind, subresource):
            denied.append(f"{verb} {kind.plural}{'/' if subresource else ''}{subresource}")
    if denied:
        return "failed", (
            f"not allowed in namespace {api.namespace}: {', '.join(denied)}; ask for the role "
            "launcher-user"
        )
    return "ok", f"submit, watch, scale and delete are allowed in namespace {api.namespace}"


def _nodes(api: Api) -> tuple[Result, str]:
    try:
        nodes = api.listing(NODE).items
    except Forbidden:
        return "warning", "nodes may not be listed by this user"
    gpus = sum(int(node.get("status", {}).get("allocatable", {}).get(GPU, 0)) for node in nodes)
    lost = [node["metadata"]["name"] for node in nodes if held(node, "Ready") is None]
    detail = f"{len(nodes)} nodes, {gpus} GPUs ({GPU})"
    if lost:
        return "warning", f"{detail}; not ready: {', '.join(lost[:5])}"
    if not gpus:
        return "warning", f"{detail}; GPU jobs will wait: is the device plugin installed?"
    return "ok", detail


def _kueue(api: Api) -> tuple[Result, str]:
    try:
        workloads(api)
    except NotFound:
        return "ok", "not installed; job.queue cannot be used"
    except Forbidden:
        return "warning", "its Workloads may not be listed: why a job waits will not be told"
    return "ok", "installed"


def _stranded(api: Api) -> tuple[Result, str]:
    """Pods of jobs on nodes that are gone: the operator waits for them (kubeflow/trainer#1570)."""
    pods = api.listing(POD, labels=JOB_LABEL).items
    try:
        ready = {
            node["metadata"]["name"]
            for node in api.listing(NODE).items
            if held(node, "Ready") is not None
        }
    except Forbidden:
        return "warning", "nodes may not be listed by this user"
    lost = [
        pod["metadata"]["name"]
        for pod in pods
        if pod["spec"].get("nodeName")
        and pod["spec"]["nodeName"] not in ready
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]
    if lost:
        return "warning", (
            f"{', '.join(lost[:5])} on nodes that are not ready; `launcher controller` frees them"
        )
    return "ok", f"none of {len(pods)} pods"


def _held(api: Api) -> tuple[Result, str]:
    """Pods that were to be gone long ago and wait for the ledger alone."""
    pods = held_pods(api, api.namespace)
    now_ms = api.transport.clock.now_ms()
    late = [
        pod["metadata"]["name"]
        for pod in pods
        if "deletionTimestamp" in pod["metadata"]
        and now_ms - moment_ms(pod["metadata"]["deletionTimestamp"]) > HELD_MOST_MS
    ]
    if late:
        return "warning", (
            f"{', '.join(late[:5])} wait for their GPU time to be stored; is a controller with "
            "--ledger running? if the ledger is gone: launcher doctor --release-finalizers"
        )
    return "ok", f"{len(pods)} pods are held until their GPU time is stored; none for long"
