"""Users' own changes of the rendered objects: what a patch file may say.

Two forms, a YAML document each. A strategic merge looks like the object and holds what changes:

    kind: PyTorchJob
    spec: {runPolicy: {ttlSecondsAfterFinished: 60}}

A JSON patch (RFC 6902) names its target and the operations:

    target: {kind: PyTorchJob}
    patch: [{op: replace, path: /spec/runPolicy/ttlSecondsAfterFinished, value: 60}]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import UsageError

_HEAD = ("apiVersion", "kind")


@dataclass(frozen=True)
class Patch:
    """One document of a patch file."""

    source: str
    """File and document, for errors."""
    kind: str
    """Kind of the objects that it changes."""
    name: str
    """Name of the object; empty: every one of the kind."""
    merge: Any = None
    """A strategic merge: the object's shape, with what changes."""
    operations: tuple[dict[str, Any], ...] = ()
    """A JSON patch in its order."""


def read_patches(paths: Sequence[str], folder: Path) -> tuple[Patch, ...]:
    """The patches of files in their order; a relative path is one below `folder`.

    Raises UsageError for what cannot be read or is no patch.
    """
    return tuple(patch for path in paths for patch in _read(folder / Path(path).expanduser(), path))


def _read(file: Path, path: str) -> list[Patch]:
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(f"cannot read the patch {path}: {reason}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "unreadable"
        raise UsageError(f"patch {path} is not valid YAML{where}: {what}") from error
    found = [
        _patch(document, path if len(documents) == 1 else f"{path} (document {number})")
        for number, document in enumerate(documents, 1)
        if document is not None
    ]
    if not found:
        raise UsageError(f"patch {path} is empty; give a YAML document with a kind and changes")
    return found


def _patch(document: Any, source: str) -> Patch:
    if isinstance(document, dict) and "kind" in document:
        return _merge(document, source)
    if isinstance(document, dict) and set(document) == {"target", "patch"}:
        return _operations(document["target"], document["patch"], source)
    raise UsageError(
        f"patch {source} is neither a strategic merge nor a JSON patch; give a mapping with kind "
        "and what changes, or one with target (kind, name) and patch (a list of operations)"
    )


def _merge(document: dict[str, Any], source: str) -> Patch:
    metadata = document.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    changes = {key: value for key, value in document.items() if key not in _HEAD}
    if not changes:
        raise UsageError(f"patch {source} changes nothing; give fields beside kind")
    return Patch(source, _text(document["kind"], "kind", source), str(name), merge=changes)


def _operations(target: Any, operations: Any, source: str) -> Patch:
    if not isinstance(target, dict) or not set(target) <= {"kind", "name"} or "kind" not in target:
        raise UsageError(f"target of patch {source} must hold kind, and name where it matters")
    if not isinstance(operations, list) or not operations:
        raise UsageError(f"patch of patch {source} must be a list of operations (RFC 6902)")
    for number, operation in enumerate(operations):
        if not isinstance(operation, dict) or not {"op", "path"} <= set(operation):
            raise UsageError(f"patch[{number}] of patch {source} must hold op and path (RFC 6902)")
    kind = _text(target["kind"], "target.kind", source)
    return Patch(source, kind, str(target.get("name", "")), operations=tuple(operations))


def _text(value: Any, key: str, source: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{key} of patch {source} is {value!r}; give a kind, as PyTorchJob")
    return value
