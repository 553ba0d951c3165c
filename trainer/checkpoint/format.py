"""The manifest: what a checkpoint is, as a small JSON object whose existence is the commit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainer.checkpoint.lineage import Step

FORMAT = "checkpoint/1"


@dataclass(frozen=True)
class StoredObject:
    """An object that the manifest vouches for."""

    key: str
    size: int
    """In bytes."""
    sha256: str
    """Of the whole object, in hex."""


@dataclass(frozen=True)
class Manifest:
    """Everything of a checkpoint but the tensors. Holds no secrets: anyone may read the store."""

    run: str
    generation: int
    attempt: str
    """Unique to this save: tells our manifest from another writer's after a lost answer."""
    parent: str
    """Key of the manifest that this generation resumed from; empty for a fresh start."""
    update: int
    seen: int
    """Samples since the run's start."""
    epoch: int
    identity: dict[str, str | int]
    """What the state belongs to (dataset, selection, seed, ...); a resume must give the same."""
    facts: dict[str, Any]
    """What else a resume needs: precision, layout, RNG, ..."""
    config_sha256: str
    objects: tuple[StoredObject, ...]
    created_at: float
    """Unix seconds."""

    @property
    def step(self) -> Step:
        return Step(self.update, self.generation)

    @property
    def key(self) -> str:
        return self.step.manifest_key

    def dump(self) -> bytes:
        """Raises ValueError or TypeError where the facts are not JSON."""
        described = {"format": FORMAT} | asdict(self)
        return json.dumps(described, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes, key: str | None = None) -> Manifest:
        """The manifest in these bytes, found under `key`; ValueError says what is wrong."""
        try:
            described = json.loads(data)
        except ValueError as error:
            raise ValueError("the manifest is not JSON") from error
        if not isinstance(described, dict):
            raise ValueError("the manifest is not a JSON object")
        if described.get("format") != FORMAT:
            raise ValueError(f"the format is {described.get('format')!r}, expected {FORMAT!r}")
        for name, wanted in _FIELDS.items():
            if name not in described:
                raise ValueError(f"the manifest has no {name!r}")
            if not isinstance(described[name], wanted) or isinstance(described[name], bool):
                raise ValueError(f"{name!r} of the manifest is {described[name]!r:.80}")
        objects = tuple(_object(entry) for entry in described["objects"])
        fields = {name: described[name] for name in _FIELDS}
        manifest = cls(**fields | {"objects": objects})
        _check_place(manifest, key)
        return manifest


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "run": str,
    "generation": int,
    "attempt": str,
    "parent": str,
    "update": int,
    "seen": int,
    "epoch": int,
    "identity": dict,
    "facts": dict,
    "config_sha256": str,
    "objects": list,
    "created_at": (int, float),
}


def _object(entry: Any) -> StoredObject:
    try:
        found = StoredObject(entry["key"], entry["size"], entry["sha256"])
        right = (
            isinstance(found.key, str)
            and type(found.size) is int
            and found.size >= 0
            and re.fullmatch("[0-9a-f]{64}", found.sha256) is not None
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"an object of the manifest is {entry!r:.80}") from error
    if not right:
        raise ValueError(f"an object of the manifest is {entry!r:.80}")
    return found


def _check_place(manifest: Manifest, key: str | None) -> None:
    for name in ("generation", "update", "seen", "epoch"):
        if getattr(manifest, name) < 0:
            raise ValueError(f"{name!r} of the manifest is {getattr(manifest, name)}, below 0")
    if key is not None and key != manifest.key:
        raise ValueError(f"the manifest belongs under {manifest.key}")
    # An object elsewhere could be another run's: neither to be read nor to be removed with ours.
    allowed = [manifest.step.state_key(manifest.attempt)]
    if [found.key for found in manifest.objects] != allowed:
        keys = ", ".join(found.key for found in manifest.objects)
        raise ValueError(f"the objects are [{keys}], expected {allowed[0]}")


def mismatch(kept: Mapping[str, str | int], given: Mapping[str, str | int]) -> str:
    """The first difference of two identities in words; empty where there is none."""
    for name in sorted(kept.keys() | given.keys()):
        old, new = kept.get(name, "absent"), given.get(name, "absent")
        if old != new or type(old) is not type(new):
            return f"{name} {old!r}, but this run has {name} {new!r}"
    return ""
