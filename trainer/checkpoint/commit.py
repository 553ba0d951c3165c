"""One save: the tensors first, the manifest last by conditional create. All of it may fail."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from trainer.checkpoint.errors import CheckpointError
from trainer.checkpoint.format import Manifest, StoredObject
from trainer.checkpoint.staging import Staging
from trainer.storage import Exists, NotFound, StorageError, Store

logger = logging.getLogger(__name__)

PAUSE_S = (0.1, 2.0)
"""First and longest wait between two tries to learn what became of a manifest."""


class Abandoned(CheckpointError):
    """The time for the save is over, or the process ends."""


class OutcomeUnknown(CheckpointError):
    """The manifest may be there or not, now or later: nothing of this save may be removed."""


class Deadline:
    """A moment that ends a save; it can be called off before."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._ends_at = time.monotonic() + limit_s
        self._called_off = threading.Event()

    def call_off(self) -> None:
        self._called_off.set()

    def left_s(self) -> float:
        """Seconds left; raises Abandoned where there are none."""
        if self._called_off.is_set():
            raise Abandoned("the process ends before it was written")
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise Abandoned(f"not finished within {self._limit_s:g} s")
        return left

    def pause(self, pause_s: float) -> None:
        self._called_off.wait(min(pause_s, self.left_s()))


def commit(
    store: Store,
    staging: Staging,
    draft: Manifest,
    deadline: Deadline,
    check: Callable[[], None],
) -> Manifest:
    """Writes the staged state and then the manifest: `draft` with the object put in.

    `check` runs between the two and may raise, for instance where a newer group took over. Before
    the manifest is sent every failure removes the object again; after that nothing is removed
    unless the manifest is known not to be ours. Raises StorageError or CheckpointError.
    """
    key = draft.step.state_key(draft.attempt)
    size = staging.layout.file_bytes
    digest = hashlib.sha256()
    try:
        store.upload(key, _passing(staging, digest, deadline), size, deadline.left_s())
        check()
        deadline.left_s()
    except BaseException:
        discard(store, key)
        raise
    manifest = replace(draft, objects=(StoredObject(key, size, digest.hexdigest()),))
    return _create(store, manifest, deadline)


def _passing(
    staging: Staging, digest: hashlib._Hash, deadline: Deadline
) -> Iterator[bytes | memoryview]:
    for chunk in staging.chunks():
        deadline.left_s()
        digest.update(chunk)
        yield chunk


def _create(store: Store, manifest: Manifest, deadline: Deadline) -> Manifest:
    data = manifest.dump()
    pause_s, longest_s = PAUSE_S
    while True:
        try:
            store.create(manifest.key, data)
            return manifest
        except Exists:
            logger.debug("%s/%s exists; reading whose it is", store.address, manifest.key)
        except StorageError as error:
            # Refused, or carried out and the answer lost: only reading it back can tell.
            logger.info("outcome of a manifest unknown: %s", error)
        with contextlib.suppress(StorageError):  # NotFound: try again; others: still unknown
            return _settled(store, manifest, store.get(manifest.key))
        try:
            deadline.pause(pause_s)
        except Abandoned as error:
            raise OutcomeUnknown(
                f"whether {store.address}/{manifest.key} was written is unknown ({error})"
            ) from error
        pause_s = min(2 * pause_s, longest_s)


def _settled(store: Store, ours: Manifest, data: bytes) -> Manifest:
    """What stands under our key: ours, or an earlier try of ours at the same update."""
    try:
        found = Manifest.parse(data, ours.key)
    except ValueError as error:
        discard(store, ours.step.state_key(ours.attempt))
        raise CheckpointError(f"{store.address}/{ours.key} is damaged: {error}") from error
    if found.attempt == ours.attempt:
        return found
    # The key holds our generation, which is ours alone: that save was believed lost. Same state.
    discard(store, ours.step.state_key(ours.attempt))
    if (found.seen, found.identity) != (ours.seen, ours.identity):
        raise CheckpointError(
            f"{store.address}/{ours.key} was written by another group in the same generation; "
            "end one of the two"
        )
    return found


def discard(store: Store, key: str) -> None:
    """Removes what no manifest names; where the store refuses, retention finds it later."""
    try:
        store.remove(key)
    except NotFound:
        pass
    except StorageError as error:
        logger.info("left for retention: %s", error)
