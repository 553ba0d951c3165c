"""The user's patches, applied last, and each checked for what the launcher rests on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from launcher.errors import UsageError
from launcher.render.check import problems
from launcher.render.invariants import broken
from launcher.render.merge import MergeError, merge
from launcher.render.objects import Object
from launcher.spec import Patch


def apply_patches(objects: list[Object], patches: Sequence[Patch]) -> list[Object]:
    """The objects after the patches in their order; those given stay as they are.

    Raises UsageError, one line with file and field, where a patch does not fit its object, or makes
    of it what its CRD or the launcher does not allow.
    """
    made = objects
    for patch in patches:
        made = [_apply(thing, patch) if _meant(thing, patch) else thing for thing in made]
        _check_target(objects, patch)
        wrong = [*problems(made), *broken(objects, made)]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise UsageError(f"after patch {patch.source}: {wrong[0]}{more}")
    return made


def _meant(thing: Object, patch: Patch) -> bool:
    return thing["kind"] == patch.kind and patch.name in ("", thing["metadata"]["name"])


def _check_target(objects: list[Object], patch: Patch) -> None:
    if not any(_meant(thing, patch) for thing in objects):
        there = ", ".join(f"{thing['kind']} {thing['metadata']['name']}" for thing in objects)
        wanted = f"{patch.kind} {patch.name}".rstrip()
        raise UsageError(f"patch {patch.source} is for {wanted}, but the job has {there}")


def _apply(thing: Object, patch: Patch) -> Object:
    changed = _merged(thing, patch) if patch.merge is not None else _operate(thing, patch)
    if not isinstance(changed, dict) or _head(changed) != _head(thing):
        raise UsageError(
            f"patch {patch.source} makes another object of {thing['kind']} "
            f"{thing['metadata']['name']}; apiVersion, kind and metadata.name stay (give --name)"
        )
    return changed


def _head(thing: Object) -> tuple[Any, ...]:
    metadata = thing.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return thing.get("apiVersion"), thing.get("kind"), name


def _merged(thing: Object, patch: Patch) -> Any:
    try:
        return merge(thing, patch.merge)
    except MergeError as error:
        raise UsageError(f"patch {patch.source}: {error}") from error


def _operate(thing: Object, patch: Patch) -> Any:
    """RFC 6902; an operation that does not fit is told with its place."""
    import jsonpatch

    changed: Any = copy.deepcopy(thing)
    for number, operation in enumerate(patch.operations):
        try:
            changed = jsonpatch.apply_patch(changed, [operation])
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
            what = str(error).strip().splitlines()[0] if str(error).strip() else "does not hold"
            raise UsageError(
                f"patch {patch.source}: operation {number} ({operation['op']} "
                f"{operation['path']}) on {thing['kind']} {thing['metadata']['name']}: {what}"
            ) from error
    return changed
