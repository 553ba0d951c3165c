"""Strategic merge, as `kubectl patch` and kustomize do it: lists of named things merge by name.

https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/
strategic-merge-patch.md
"""

from __future__ import annotations

import copy
from typing import Any

DIRECTIVE = "$patch"
KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "env": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ports": ("containerPort", "port"),
    "replicatedJobs": ("name",),
    "rdzvConf": ("key",),
    "resourceClaims": ("name",),
    "topologySpreadConstraints": ("topologyKey",),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""Patch merge keys of Kubernetes' types by field, the first that an entry has, and those of our
kinds. Other lists, tolerations and arguments among them, are replaced as a whole."""


class MergeError(ValueError):
    """A patch says what cannot be merged: the field, and why."""


def merge(current: Any, patch: Any, field: str = "", path: str = "") -> Any:
    """What `current` is after the patch; neither of them is changed. Raises MergeError.

    field: the name under which both stand, which tells how lists merge.
    """
    if isinstance(patch, dict):
        return _merge_maps(current if isinstance(current, dict) else {}, patch, path)
    if isinstance(patch, list):
        names = KEYS.get(field, ())
        entries = current if isinstance(current, list) else []
        if names and all(isinstance(entry, dict) for entry in patch):
            return _merge_named(entries, patch, names, path)
    return copy.deepcopy(patch)


def _merge_maps(current: dict[str, Any], patch: dict[str, Any], path: str) -> dict[str, Any]:
    changes = dict(patch)
    directive = changes.pop(DIRECTIVE, "merge")
    if directive == "replace":
        return {key: merge(None, value, key, _at(path, key)) for key, value in changes.items()}
    if directive != "merge":
        raise MergeError(f"{path or 'the object'} has {DIRECTIVE}: {directive}; allowed here are "
                         "replace and merge")  # fmt: skip
    made = copy.deepcopy(current)
    for key, value in changes.items():
        if str(key).startswith("$"):
            raise MergeError(f"{_at(path, key)} is no directive; allowed is {DIRECTIVE}")
        if value is None or (isinstance(value, dict) and value.get(DIRECTIVE) == "delete"):
            made.pop(key, None)
        else:
            made[key] = merge(made.get(key), value, key, _at(path, key))
    return made


def _merge_named(
    current: list[Any], patch: list[dict[str, Any]], names: tuple[str, ...], path: str
) -> list[Any]:
    """Entries that stand in both are merged in their place, new ones come after them."""
    if any(set(entry) == {DIRECTIVE} and entry[DIRECTIVE] == "replace" for entry in patch):
        return [merge(None, entry, "", f"{path}[]") for entry in patch if set(entry) != {DIRECTIVE}]
    made = copy.deepcopy(current)
    for change in patch:
        name = next((name for name in names if name in change), None)
        if name is None:
            raise MergeError(f"an entry of {path} lacks {' or '.join(names)}, by which they merge")
        place = next(
            (index for index, entry in enumerate(made) if entry.get(name) == change[name]), None
        )
        directive = change.get(DIRECTIVE)
        where = f"{path}[{name}={change[name]}]"
        if directive == "delete":
            made[:] = [entry for entry in made if entry.get(name) != change[name]]
        elif place is None:
            made.append(merge(None, change, "", where))
        else:
            made[place] = merge(made[place], change, "", where)
    return made


def _at(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)
