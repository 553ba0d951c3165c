"""Finding and reading what was kept: fences, steps, manifests, and tensors checked by hash."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint.errors import CheckpointError, CorruptCheckpoint, StateMismatch
from trainer.checkpoint.format import Manifest, mismatch
from trainer.checkpoint.layout import Field, Layout, differences, header_bytes, parse_header
from trainer.checkpoint.lineage import Fence, Step, valid
from trainer.storage import Entry, NotFound, Store

logger = logging.getLogger(__name__)

FENCES = "fences/"
GENERATIONS = "generations/"
STEPS = "step-"

# Retention of a group that still lives may take what was just listed, so the list is made again.
LOOKS = 5


class _Vanished(Exception):
    """A listed checkpoint was removed while it was being read."""


def newest(
    store: Store, identity: Mapping[str, str | int], like: Mapping[str, Tensor] | None = None
) -> tuple[Manifest, dict[str, Tensor]] | None:
    """The newest checkpoint on the line that verifies, and its state on the CPU; None without any.

    What does not verify is skipped by name with a warning. `like`: the tensors that the state must
    have, by name, shape and dtype. Raises StateMismatch where the state belongs to something else,
    CheckpointError where there are checkpoints and none verifies, StorageError where the store
    fails: that says nothing about the checkpoint.
    """
    for _ in range(LOOKS):
        try:
            return _look(store, identity, like)
        except _Vanished:
            continue
    raise CheckpointError(
        f"the checkpoints under {store.address} vanish while they are read; "
        "end the other group of workers that prunes them"
    )


def _look(
    store: Store, identity: Mapping[str, str | int], like: Mapping[str, Tensor] | None
) -> tuple[Manifest, dict[str, Tensor]] | None:
    steps = committed(store.list(STEPS))
    fences = read_fences(store, steps)
    line = valid(steps, fences)
    reasons = []
    for step in line:
        try:
            manifest = read_manifest(store, step)
            difference = mismatch(manifest.identity, identity)
            if difference:
                raise StateMismatch(
                    f"checkpoint {store.address}/{step.manifest_key} was made with {difference}; "
                    "give the run another checkpoint.address, or what the checkpoint was made with"
                )
            return manifest, read_state(store, manifest, like)
        except NotFound as error:
            raise _Vanished from error  # the manifest itself
        except CorruptCheckpoint as error:
            if not _exists(store, step.manifest_key):
                raise _Vanished from error
            logger.warning("skipping a checkpoint: %s", error)
            reasons.append(str(error))
    if reasons:
        raise CheckpointError(
            f"none of the {len(reasons)} checkpoints under {store.address} verifies (the newest: "
            f"{reasons[0]}); restore one, or start afresh under another checkpoint.address"
        )
    if steps or any(fence.parent for fence in fences):
        logger.warning(
            "the run under %s starts afresh: its checkpoints are gone, or stale (%d)",
            store.address,
            len(steps),
        )
    return None


def committed(entries: Iterable[Entry]) -> list[Step]:
    """The steps that have a manifest."""
    steps = ((entry.key, Step.of(entry.key)) for entry in entries)
    return [step for key, step in steps if step is not None and key == step.manifest_key]


def generations(store: Store, *folders: str) -> set[int]:
    """The generations that were claimed; with other folders, those that left an object there."""
    entries = [entry for folder in folders or (GENERATIONS,) for entry in store.list(folder)]
    names = (entry.key.rpartition("/")[2].removesuffix(".json") for entry in entries)
    return {int(name) for name in names if name.isdecimal()}


def read_fences(store: Store, steps: Iterable[Step]) -> list[Fence]:
    """All fences. One that is damaged or lost is drawn again from its generation's manifests."""
    fences = {}
    for entry in store.list(FENCES):
        try:
            fence = parse_fence(store.get(entry.key))
        except ValueError as error:
            logger.warning("skipping the fence %s/%s: %s", store.address, entry.key, error)
            continue
        fences[fence.generation] = fence
    for step in steps:
        if step.generation not in fences:
            try:
                parent = read_manifest(store, step).parent
            except (CorruptCheckpoint, NotFound):
                continue
            fences[step.generation] = Fence(step.generation, Step.of(parent))
    return list(fences.values())


def fence_key(generation: int) -> str:
    return f"{FENCES}{generation:04d}.json"


def dump_fence(fence: Fence) -> bytes:
    described = {
        "format": "fence/1",
        "generation": fence.generation,
        "parent": fence.parent.manifest_key if fence.parent else "",
        "parent_update": fence.parent.update if fence.parent else -1,
    }
    return json.dumps(described).encode() + b"\n"


def parse_fence(data: bytes) -> Fence:
    """The fence in these bytes; ValueError says what is wrong."""
    described: Any = json.loads(data)
    if not isinstance(described, dict) or described.get("format") != "fence/1":
        raise ValueError("it is no fence/1")
    generation, parent = described.get("generation"), described.get("parent")
    if type(generation) is not int or generation < 1 or not isinstance(parent, str):
        raise ValueError(f"it has generation {generation!r} and parent {parent!r}")
    step = Step.of(parent)
    if parent and step is None:
        raise ValueError(f"its parent {parent!r} is no checkpoint")
    return Fence(generation, step)


def read_manifest(store: Store, step: Step) -> Manifest:
    """Raises CorruptCheckpoint, and NotFound where there is none."""
    try:
        return Manifest.parse(store.get(step.manifest_key), step.manifest_key)
    except ValueError as error:
        raise CorruptCheckpoint(f"{store.address}/{step.manifest_key}: {error}") from error


def _exists(store: Store, key: str) -> bool:
    try:
        store.size(key)
    except NotFound:
        return False
    return True


def read_state(
    store: Store, manifest: Manifest, like: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The tensors that the manifest vouches for, on the CPU, fetched in parallel ranges.

    They share one block of memory, which lives as long as any of them. Raises CorruptCheckpoint
    that names the object: absent, of another size or hash, not safetensors, or unlike `like`.
    """
    (wanted,) = manifest.objects
    address = f"{store.address}/{wanted.key}"
    try:
        size = store.size(wanted.key)
        if size != wanted.size:
            raise ValueError(f"it has {size} bytes, the manifest says {wanted.size}")
        header, block, sha256 = _fetch(store, wanted.key, size)
        if sha256 != wanted.sha256:
            raise ValueError(f"its SHA-256 is {sha256}, the manifest says {wanted.sha256}")
        layout = parse_header(header, size)
        difference = differences(layout, like) if like is not None else ""
        if difference:
            raise ValueError(difference)
    except NotFound as error:
        raise CorruptCheckpoint(f"{address} is missing") from error
    except ValueError as error:
        raise CorruptCheckpoint(f"{address}: {error}") from error
    return _tensors(layout, block)


def read_tensors(store: Store, key: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of any safetensors file on the CPU, and the file's SHA-256.

    Raises ValueError where it is none, StorageError where it cannot be had.
    """
    size = store.size(key)
    header, block, sha256 = _fetch(store, key, size)
    return _tensors(parse_header(header, size), block), sha256


def _fetch(store: Store, key: str, size: int) -> tuple[bytes, Tensor, str]:
    """Header, data and SHA-256 of the whole, in one pass and without a second copy of the data."""
    digest = hashlib.sha256()
    parts = store.get_parallel(key, size)
    first = next(parts, b"")
    length = header_bytes(first, size)
    header = bytearray()
    block = torch.empty(size - length, dtype=torch.uint8)
    target = block.numpy().data
    at = 0
    while first:
        digest.update(first)
        taken = first[: length - len(header)]
        header += taken
        rest = memoryview(first)[len(taken) :]
        target[at : at + len(rest)] = rest
        at += len(rest)
        first = next(parts, b"")
    return bytes(header), block, digest.hexdigest()


def _tensors(layout: Layout, block: Tensor) -> dict[str, Tensor]:
    def view(field: Field) -> Tensor:
        part = block[field.start : field.end]
        if field.start % field.dtype.itemsize:
            part = part.clone()  # another writer's file need not be aligned
        return part.view(field.dtype).view(field.shape)

    return {name: view(field) for name, field in layout.fields.items()}
