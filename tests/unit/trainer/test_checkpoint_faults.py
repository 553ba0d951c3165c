"""Faults of the store while saving: counted and told, and training goes on."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from tests.faulty import Faulty
from tests.unit.trainer.groups import (
    IDENTITY,
    Gate,
    keeper,
    kept_updates,
    save,
    saved,
    started,
    state_of,
)
from trainer.checkpoint import (
    CheckpointError,
    newest,
)
from trainer.storage import StorageError, Store


@pytest.mark.parametrize("operation", ["upload", "list"])
def test_a_failed_save_is_counted_and_leaves_nothing(
    store: Store, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = Faulty(store)
    group, _ = started(faulty)
    saved(group, 1)
    faulty.fail("unanswered", operation)
    assert save(group, 2)
    assert group.flush(20)
    assert (group.saves, group.failures, group.last_update) == (1, 1, 1)
    assert "the checkpoint of update 2 is not saved" in caplog.text
    assert "training goes on (failure 1)" in caplog.text
    assert [e.key for e in store.list("step-0000000002")] == []
    saved(group, 3)
    assert kept_updates(store) == [1, 3]


@pytest.mark.parametrize("kind", ["refused", "unanswered"])
def test_the_outcome_of_a_lost_answer_is_read_back(store: Store, kind: Any) -> None:
    faulty = Faulty(store)
    group, _ = started(faulty)
    faulty.fail(kind, "create")
    faulty.fail("refused", "get")
    saved(group, 1)
    assert (group.saves, group.failures) == (1, 0)
    found = newest(store, IDENTITY)
    assert found is not None
    assert torch.equal(found[1]["model.w"], state_of(1001)["model.w"])


@pytest.mark.parametrize("kind", ["dead before", "dead after"])
def test_nothing_is_removed_while_the_outcome_is_unknown(store: Store, kind: Any) -> None:
    faulty = Faulty(store)
    group, _ = started(faulty, deadline_s=0.4)
    faulty.fail(kind, "create")
    assert save(group, 1)
    assert group.flush(20)
    assert (group.saves, group.failures) == (0, 1)
    with pytest.raises(CheckpointError, match=r"step-0000000001-g0001/manifest.json was written"):
        group.flush(0, check=True)
    assert [e.key for e in store.list("step-") if e.key.endswith(".safetensors")] != []
    faulty.dead = False
    saved(group, 2)  # its retention leaves the undecided one alone
    assert [e.key for e in store.list("step-0000000001") if e.key.endswith(".safetensors")] != []
    assert kept_updates(store) == ([2] if kind == "dead before" else [1, 2])


def test_a_save_believed_lost_is_adopted(store: Store) -> None:
    faulty = Faulty(store)
    group, _ = started(faulty, deadline_s=0.4)
    faulty.fail("dead after", "create")
    save(group, 1)
    group.flush(20)
    faulty.dead = False
    saved(group, 1)
    assert (group.saves, group.failures, group.last_update) == (1, 1, 1)
    assert len(store.list("step-0000000001")) == 2
    assert newest(store, IDENTITY) is not None


def test_the_deadline_ends_a_save_before_its_manifest(store: Store) -> None:
    faulty = Faulty(store)
    group, _ = started(faulty, deadline_s=0.2)
    faulty.hooks["list"] = lambda: time.sleep(0.3)
    assert save(group, 1)
    assert group.flush(20)
    assert group.failures == 1
    assert store.list("step-") == []
    with pytest.raises(CheckpointError, match=r"not finished within 0.2 s"):
        group.flush(0, check=True)


def test_close_calls_off_what_does_not_end_in_time(store: Store) -> None:
    faulty = Faulty(store)
    group, _ = started(faulty)
    gate = Gate(faulty, "upload")
    save(group, 1)
    assert gate.reached.wait(20)
    started_s = time.monotonic()
    group.close(0.05)
    assert time.monotonic() - started_s < 2
    gate.open()
    assert group.flush(20)
    assert group.failures == 1
    assert store.list("step-") == []


def test_failing_retention_does_not_fail_the_save(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = Faulty(store)
    group, _ = started(faulty, keep_last=1)
    saved(group, 1)
    faulty.fail("refused", "remove")
    saved(group, 2)
    assert (group.saves, group.failures, group.purge_failures) == (2, 0, 1)
    assert "old checkpoints are not removed" in caplog.text
    saved(group, 3)
    assert kept_updates(store) == [3]


def test_a_failing_store_at_the_start_is_no_fresh_start(store: Store) -> None:
    group, _ = started(store)
    saved(group, 1)
    for operation in ("list", "get", "size", "get_parallel"):
        faulty = Faulty(store)
        again = keeper(faulty)
        again.claim()
        faulty.fail("refused", operation)
        with pytest.raises(StorageError, match="connection reset"):
            again.choose()
