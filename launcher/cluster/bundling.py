"""Everything that a question about a job needs, in one archive: objects, events, logs, stacks.

No Secret is read. What looks like one in an object's environment or in an address is blotted out.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from launcher.cluster.client import Api
from launcher.cluster.fields import before, index_of, labels_of, latest, restarts_of
from launcher.cluster.indexedjobs import PARTS_SELECTOR
from launcher.cluster.jobs import Jobs
from launcher.cluster.kinds import JOB, POD, SERVICE, Object
from launcher.cluster.logs import logs
from launcher.cluster.objects import pods_of, workload_of
from launcher.cluster.stacks import request_stacks
from launcher.cluster.told import all_events_of
from launcher.errors import LauncherError
from launcher.spec import JOB_LABEL, QUEUE_LABEL
from launcher.yamltext import to_yaml

LOG_LINES = 20_000
"""Of each worker: hours of training, and a few MB."""
BLOT = "(left out)"
_SECRET_NAME = re.compile(
    r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|PRIVATE|ACCESS_KEY|API_?KEY", re.I
)
_URL_USER = re.compile(r"(\w+://)[^/\s:@]+:[^/\s@]+@")


def bundle(api: Api, name: str, out: Path, say: Callable[[str], None]) -> list[str]:
    """Writes the archive and returns the names of what it holds.

    What cannot be had is told inside, in `missing.txt`, and to `say`. Raises NotFound for a job
    that there is not, and LauncherError where the file cannot be written.
    """
    job, kind = Jobs(api).find(name)
    parts: dict[str, str] = {}
    missing: list[str] = []

    def add(path: str, make: Callable[[], str]) -> None:
        try:
            parts[f"{name}/{path}"] = make()
        except LauncherError as error:
            missing.append(f"{path}: {error}")
            say(f"left out {path}: {error}")

    add("status.json", lambda: json.dumps(asdict(Jobs(api).status(name)), indent=2))
    add(f"{kind.name.lower()}.yaml", lambda: _yaml([job]))
    if kind is not JOB:
        add("rendezvous.yaml", lambda: _yaml(_rendezvous(api, name)))
    add("pods.yaml", lambda: _yaml(_all_pods(api, name)))
    add("events.json", lambda: json.dumps(_events(api, name), indent=2))
    if QUEUE_LABEL in labels_of(job):
        add("workload.yaml", lambda: _yaml(list((workload_of(api, job) or ())[:1])))
    add("stacks.txt", lambda: request_stacks(api, pods_of(api, name)))
    pods = pods_of(api, name)
    for pod in latest(pods):
        index = index_of(pod)
        for previous in (False, True):
            end = ".previous.log" if previous else ".log"
            if previous and not restarts_of(pod) and before(pods, pod) is None:
                continue
            add(f"logs/worker-{index}{end}", partial(_log, api, name, index, previous))
    if missing:
        parts[f"{name}/missing.txt"] = "\n".join(missing) + "\n"
    _write(out, parts)
    return sorted(parts)


def blotted(thing: Any, name: str = "") -> Any:
    """A copy in which plain values of variables that are called like secrets are left out."""
    if isinstance(thing, dict):
        is_secret = "value" in thing and _SECRET_NAME.search(str(thing.get("name", "")))
        return {
            key: BLOT if is_secret and key == "value" else blotted(value, key)
            for key, value in thing.items()
            if key != "managedFields"
        }
    if isinstance(thing, list):
        return [blotted(each, name) for each in thing]
    if isinstance(thing, str):
        return _without_user(thing)
    return thing


def _yaml(things: list[Object]) -> str:
    return to_yaml([blotted(thing) for thing in things])


def _rendezvous(api: Api, name: str) -> list[Object]:
    found = []
    for kind in (JOB, SERVICE):
        for thing in api.listing(kind, labels=f"{JOB_LABEL}={name},{PARTS_SELECTOR}").items:
            found.append({"apiVersion": kind.version, "kind": kind.name, **thing})
    return found


def _all_pods(api: Api, name: str) -> list[Object]:
    pods = api.listing(POD, labels=f"{JOB_LABEL}={name}").items
    return [{"apiVersion": POD.version, "kind": POD.name, **pod} for pod in pods]


def _events(api: Api, name: str) -> list[Object]:
    names = [name, f"{name}-rendezvous", *(p["metadata"]["name"] for p in _all_pods(api, name))]
    return [blotted(event) for each in names for event in all_events_of(api, each)]


def _log(api: Api, name: str, index: int, previous: bool) -> str:
    lines = logs(api, name, index, tail=LOG_LINES, previous=previous)
    return "".join(f"{_without_user(line)}\n" for line in lines)


def _without_user(text: str) -> str:
    return _URL_USER.sub(rf"\1{BLOT}@", text)


def _write(out: Path, parts: dict[str, str]) -> None:
    now = time.time()
    try:
        with tarfile.open(out, "w:gz") as archive:
            for path, text in sorted(parts.items()):
                data = text.encode()
                entry = tarfile.TarInfo(path)
                entry.size, entry.mtime, entry.mode = len(data), int(now), 0o644
                archive.addfile(entry, io.BytesIO(data))
    except OSError as error:
        raise LauncherError(f"cannot write {out}: {error.strerror or error}") from error


def default_name(name: str) -> str:
    """NAME-DAY-TIME.tar.gz, so that two bundles do not overwrite each other."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar.gz"
