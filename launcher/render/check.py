"""Are rendered objects what their CRDs allow? Without network or a schema library.

A structural schema uses few keywords, so a short walk suffices: it takes less time than the import
of a library would. Closed to unknown fields, as `kubectl --validate=strict`. The tests hold it
against jsonschema.
"""

from __future__ import annotations

import difflib
import functools
import gzip
import json
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

from launcher.render.objects import Object

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
    "number": (int, float),
}  # fmt: skip


SCHEMAS = {
    "PyTorchJob": "pytorchjob-v1",
    "TrainJob": "trainjob-v1alpha1",
    "TrainingRuntime": "trainingruntime-v1alpha1",
}
"""Packaged schemas by kind."""


def problems(objects: list[Object]) -> list[str]:
    """What is wrong with each object, a line each: object, field, value and what is allowed."""
    found = []
    for thing in objects:
        title = f"{thing['kind']} {thing['metadata']['name']}"
        if thing["kind"] in SCHEMAS:
            # The CRD leaves metadata to the API server.
            lines = _check({**thing, "metadata": {}}, schema(thing["kind"]), "")
        elif thing["kind"] == "Job":
            body = thing.get("spec")
            template = body.get("template") if isinstance(body, dict) else None
            lines = _check(template, _pod_template(), "spec.template")
        else:
            continue
        found += [f"{title}: {line}" for line in lines]
    return found


@functools.cache
def schema(kind: str) -> dict[str, Any]:
    """The structural schema of a custom kind, reduced by tools/derive_crd.py."""
    name = f"{SCHEMAS[kind]}.schema.json.gz"
    packaged = resources.files("launcher.render").joinpath(name)
    loaded = json.loads(gzip.decompress(packaged.read_bytes()))
    assert isinstance(loaded, dict)
    return loaded


def _pod_template() -> dict[str, Any]:
    """The same pods stand in a Job, so the part of the CRD on pods serves there too."""
    replicas = schema("PyTorchJob")["properties"]["spec"]["properties"]["pytorchReplicaSpecs"]
    template = replicas["additionalProperties"]["properties"]["template"]
    assert isinstance(template, dict)
    return template


def _check(value: Any, node: dict[str, Any], path: str) -> Iterator[str]:
    here = path or "the object"
    if node.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            yield f"{here} is {value!r}, but must be an integer or a string"
            return
    elif "type" in node and not _is(value, node["type"]):
        yield f"{here} is {_short(value)}, but must be of type {node['type']}"
        return
    if "pattern" in node and isinstance(value, str) and not re.search(node["pattern"], value):
        yield f"{here} is {value!r}, but must match {node['pattern']}"
    if "enum" in node and value not in node["enum"]:
        yield f"{here} is {_short(value)}, but must be one of {', '.join(map(str, node['enum']))}"
    if "minimum" in node and value < node["minimum"]:
        yield f"{here} is {value!r}, but must be at least {node['minimum']}"
    if isinstance(value, dict):
        yield from _check_fields(value, node, path)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _check(entry, node.get("items", {}), f"{path}[{index}]")


def _check_fields(value: dict[str, Any], node: dict[str, Any], path: str) -> Iterator[str]:
    known = node.get("properties", {})
    for name in node.get("required", ()):
        if name not in value:
            yield f"{path or 'the object'} lacks the field {name}"
    for name, entry in value.items():
        where = f"{path}.{name}" if path else name
        if name in known:
            yield from _check(entry, known[name], where)
        elif "additionalProperties" in node:
            yield from _check(entry, node["additionalProperties"], where)
        elif known:
            near = difflib.get_close_matches(name, known, 1)
            yield f"{where} is unknown" + (f"; did you mean {near[0]}?" if near else "")


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
