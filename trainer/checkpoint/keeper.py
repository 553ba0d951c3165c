"""What rank 0 holds: claim a generation, choose where to go on, fence, save beside the training."""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from trainer.checkpoint import restore
from trainer.checkpoint.background import Background
from trainer.checkpoint.commit import Deadline, OutcomeUnknown, commit
from trainer.checkpoint.errors import CheckpointError, Superseded
from trainer.checkpoint.format import Manifest
from trainer.checkpoint.lineage import Fence, Step
from trainer.checkpoint.retention import prune
from trainer.checkpoint.staging import Staging
from trainer.storage import Exists, NotFound, StorageError, Store

logger = logging.getLogger(__name__)

CLAIMS = 100
"""Groups that may take the next number before us at one start; more is no race but a fault."""

LEFTOVER_S = 24 * 3600.0
"""Uploads that began so long ago and never ended are removed; no save lasts a day."""


class Keeper:
    """Keeps the checkpoints of one run: `claim`, `choose`, `fence`, then `save` as often as due.

    `store` is the run's folder. Used by one thread; the slow part of `save` and `score` runs on a
    thread of its own, where every error is counted and logged and training goes on.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        identity: Mapping[str, str | int],
        config_sha256: str,
        keep_last: int,
        keep_best: int,
        deadline_s: float,
    ) -> None:
        self._store = store
        self._run = run
        self._identity = dict(identity)
        self._config_sha256 = config_sha256
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._deadline_s = deadline_s

        self.generation = 0
        """Ours, from 1; 0 before `claim`."""
        self.superseded_by = 0
        """A newer generation that has taken the run over; 0 as long as none is known."""
        self.saves = 0
        self.failures = 0
        """Saves that were not committed, or not known to be."""
        self.skipped = 0
        """Saves not begun because one was in flight."""
        self.purge_failures = 0
        """Times that retention or a score met an error."""
        self.blocked_s = 0.0
        """Time that `save` took from the training thread, in total."""
        self.background_s = 0.0
        self.last_bytes = 0
        self.kept = 0
        """Checkpoints that the last retention left; 0 before the first."""
        self.last_saved_at = 0.0
        """Unix seconds of the last commit; 0 before the first."""
        self.last_update = -1
        """Update of the newest checkpoint known to be whole; -1 for none."""

        self._fence: Fence | None = None
        self._verified: Step | None = None
        self._restored: dict[str, Tensor] | None = None
        self._unknown: set[str] = set()
        self._staging: Staging | None = None
        self._deadline: Deadline | None = None
        self._background = Background("checkpoint")
        self._in_flight = False
        self._last_error = ""
        self._swept = False

    def claim(self) -> int:
        """Takes the next generation's number for this group."""
        for _ in range(CLAIMS):
            taken = restore.generations(self._store, restore.GENERATIONS, restore.FENCES)
            steps = restore.committed(self._store.list(restore.STEPS))
            number = 1 + max(taken | {step.generation for step in steps}, default=0)
            claim = {"generation": number, "run": self._run, "token": uuid.uuid4().hex}
            try:
                self._store.create(
                    f"{restore.GENERATIONS}{number:04d}.json", json.dumps(claim).encode() + b"\n"
                )
            except Exists:
                continue
            self.generation = number
            return number
        raise CheckpointError(
            f"no generation to claim under {self._store.address}: {CLAIMS} others came first; "
            "end the groups that start there again and again"
        )

    def choose(self, like: Mapping[str, Tensor] | None = None) -> Manifest | None:
        """The newest checkpoint that counts and verifies; None for a fresh start.

        Its state has then been read once: `take` gives it. `like` and errors: restore.newest.
        """
        assert self.generation, "claim() comes first: what is chosen before could be overtaken"
        found = restore.newest(self._store, self._identity, like)
        if found is None:
            return None
        manifest, self._restored = found
        return manifest

    def take(self) -> dict[str, Tensor]:
        """The state that `choose` has read and verified, on the CPU; given away once."""
        assert self._restored is not None, "choose() has found no state, or it was taken"
        state, self._restored = self._restored, None
        return state

    def fence(self, parent: Manifest | None) -> None:
        """Declares where this generation begins; from now on older generations cannot commit.

        Raises Superseded where a newer generation has done so already.
        """
        fence = Fence(self.generation, parent.step if parent else None)
        try:
            self._store.create(restore.fence_key(self.generation), restore.dump_fence(fence))
        except Exists as error:
            raise CheckpointError(
                f"generation {self.generation} is fenced twice, with different parents: {error}"
            ) from error
        self._check_superseded()
        self._fence = fence
        if parent is not None:
            self._verified = parent.step
            self.last_update = parent.update

    def _check_superseded(self) -> None:
        newer = max(restore.generations(self._store, restore.FENCES), default=0)
        if newer > self.generation:
            self.superseded_by = newer
            raise Superseded(
                f"generation {self.generation} of {self._store.address} is superseded by "
                f"generation {newer}; end this group, its work no longer counts"
            )

    def prepare(self, state: Mapping[str, Tensor]) -> None:
        """Allocates the staging copy, so that the first save does not wait for it."""
        if self._staging is None or not self._staging.fits(state):
            self._staging = Staging(state)

    def save(
        self,
        state: Mapping[str, Tensor],
        *,
        update: int,
        seen: int,
        epoch: int,
        facts: Mapping[str, Any],
        wait: bool = False,
    ) -> bool:
        """Copies the state and returns; it is written in the background. False: not begun.

        A save in flight makes this one be skipped, or with `wait` be begun after that one's end.
        An update that is kept already is not kept twice (True).
        """
        assert self._fence is not None, "fence() comes first"
        started_s = time.perf_counter()
        try:
            if self._in_flight and not (wait and self._background.wait(self._deadline_s)):
                self.skipped += 1
                return False
            if update == self.last_update:
                return True
            draft = self._draft(update, seen, epoch, facts)
            self.prepare(state)
            assert self._staging is not None
            self._staging.fill(state)
            self._in_flight = True
            self._deadline = deadline = Deadline(self._deadline_s)
            self._background.submit(self._timed(lambda: self._write(draft, deadline)))
            return True
        finally:
            self.blocked_s += time.perf_counter() - started_s

    def _draft(self, update: int, seen: int, epoch: int, facts: Mapping[str, Any]) -> Manifest:
        assert self._fence is not None
        return Manifest(
            run=self._run,
            generation=self.generation,
            attempt=uuid.uuid4().hex,
            parent=self._fence.parent.manifest_key if self._fence.parent else "",
            update=update,
            seen=seen,
            epoch=epoch,
            identity=self._identity,
            facts=json.loads(json.dumps(dict(facts), allow_nan=False)),  # of now, not of later
            config_sha256=self._config_sha256,
            objects=(),
            created_at=time.time(),
        )

    def flush(self, deadline_s: float, *, check: bool = False) -> bool:
        """Waits for the work in flight; False where it did not end in time.

        check: raises CheckpointError where it did not, or where the last save failed.
        """
        done = self._background.wait(deadline_s)
        if check and not done:
            raise CheckpointError(
                f"the save to {self._store.address} did not end within {deadline_s:g} s"
            )
        if check and self._last_error:
            raise CheckpointError(f"the last save failed: {self._last_error}")
        return done

    def score(self, update: int, top1: float) -> None:
        """Notes the validation top-1 (0 to 1) of the update's checkpoint, for keep-best.

        Without effect where that update was not kept.
        """
        if math.isfinite(top1):
            self._background.submit(self._timed(lambda: self._write_score(update, float(top1))))

    def close(self, deadline_s: float = 0.0) -> None:
        """Waits for the work in flight, then calls it off: before its manifest, or not at all."""
        if not self._background.wait(deadline_s) and self._deadline is not None:
            self._deadline.call_off()
        self._background.close()

    # Below: on the background thread.

    def _timed(self, job: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            started_s = time.perf_counter()
            try:
                job()
            finally:
                self.background_s += time.perf_counter() - started_s

        return run

    def _write(self, draft: Manifest, deadline: Deadline) -> None:
        assert self._staging is not None
        try:
            manifest = commit(self._store, self._staging, draft, deadline, self._check_superseded)
        except Exception as error:  # whatever it is, training goes on
            self._failed(draft, error)
            return
        finally:
            self._in_flight = False
        self._last_error = ""
        self.saves += 1
        self.last_bytes = sum(written.size for written in manifest.objects)
        self.last_saved_at = time.time()
        self.last_update = manifest.update
        self._verified = manifest.step
        self._prune()

    def _failed(self, draft: Manifest, error: Exception) -> None:
        if isinstance(error, OutcomeUnknown):
            self._unknown.add(draft.attempt)
        self.failures += 1
        self._last_error = str(error)
        logger.warning(
            "the checkpoint of update %d is not saved: %s; training goes on (failure %d)",
            draft.update,
            error,
            self.failures,
            exc_info=None if isinstance(error, _EXPECTED) else error,
        )

    def _prune(self) -> None:
        assert self._fence is not None
        assert self._verified is not None
        try:
            kept = prune(
                self._store,
                self._fence,
                self._verified,
                self._keep_last,
                self._keep_best,
                self._unknown,
            )
            self.kept = kept or self.kept
            if not self._swept:
                self._swept = True
                self._store.sweep(LEFTOVER_S)
        except StorageError as error:
            self.purge_failures += 1
            logger.warning("old checkpoints are not removed: %s; training goes on", error)

    def _write_score(self, update: int, top1: float) -> None:
        assert self._fence is not None
        step = Step(update, self.generation)
        if self._fence.parent is not None and self._fence.parent.update == update:
            step = self._fence.parent
        try:
            self._store.size(step.manifest_key)
            self._store.put(step.score_key, json.dumps({"top1": top1}).encode() + b"\n")
        except NotFound:
            logger.debug("update %d has no checkpoint; its score is not kept", update)
        except StorageError as error:
            self.purge_failures += 1
            logger.warning("the score of update %d is not kept: %s", update, error)


_EXPECTED = (StorageError, CheckpointError, OSError)
