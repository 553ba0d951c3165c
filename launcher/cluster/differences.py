"""What a submit would change, field by field: rendered objects against those that are there.

The server fills in defaults, so the rendered object is created under another name as a dry run
first, and what comes back is compared.
"""

from __future__ import annotations

import copy
import difflib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launcher.cluster import marks
from launcher.cluster.client import Api
from launcher.cluster.kinds import Object, kind_of
from launcher.yamltext import to_yaml

_SERVERS = frozenset(
    {
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "managedFields",
        "ownerReferences",
        "name",
        "namespace",
        "finalizers",
    }
)
"""Metadata that the server, or the moment, gives."""
_OURS = frozenset({marks.SUBMISSION, marks.SUSPENDED, marks.CANCELLED, marks.RESTARTS})
_JOB_LABELS = ("controller-uid", "job-name")


def diff(api: Api, objects: Sequence[Object]) -> str:
    """A unified diff as kubectl prints it; "" where nothing differs."""
    return "".join(_of_one(api, thing) for thing in objects)


def _of_one(api: Api, thing: Object) -> str:
    kind, metadata = kind_of(thing), thing["metadata"]
    namespace, name = metadata.get("namespace") or api.namespace, metadata["name"]
    live = api.find(kind, name, namespace)
    other = copy.deepcopy(thing)
    # As long as the name allows: a longer one would be refused for its length.
    other["metadata"]["name"] = f"{name[:40]}-diff-{uuid.uuid4().hex[:6]}"
    other["metadata"]["namespace"] = namespace
    wanted = api.create(other, dry_run=True)
    title = f"{kind.full_name}/{name}"
    before = _text(live) if live is not None else ""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        _text(wanted).splitlines(keepends=True),
        f"{title} (live)" if live is not None else f"{title} (absent)",
        f"{title} (rendered)",
    )
    return "".join(lines)


def _text(thing: Object) -> str:
    return to_yaml([comparable(thing)], sort_keys=True)


def comparable(thing: Object) -> Object:
    """The object without what the server, the operator and time have put there."""
    kept = {key: value for key, value in copy.deepcopy(thing).items() if key != "status"}
    kept["metadata"] = _metadata(kept["metadata"])
    spec: dict[str, Any] = kept.get("spec", {})
    spec.pop("suspend", None)
    spec.get("runPolicy", {}).pop("suspend", None)
    for key in ("selector",) if thing["kind"] == "Job" else ("clusterIP", "clusterIPs"):
        spec.pop(key, None)
    for template in _templates(spec):
        metadata = template.get("metadata", {})
        labels = {
            key: value
            for key, value in metadata.get("labels", {}).items()
            if key.rpartition("/")[2] not in _JOB_LABELS
        }
        metadata["labels"] = labels
        metadata.pop("creationTimestamp", None)
    return kept


def _metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in metadata.items() if key not in _SERVERS}
    notes = {key: text for key, text in kept.get("annotations", {}).items() if key not in _OURS}
    kept.pop("annotations", None)
    return kept | ({"annotations": notes} if notes else {})


def _templates(spec: Any) -> Iterator[dict[str, Any]]:
    """Every pod template in a spec, wherever the kind keeps it."""
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key == "template" and isinstance(value, dict):
                yield value
            else:
                yield from _templates(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from _templates(value)
