"""Saving and restoring on a real folder, with and without faults between us and it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.faulty import Faulty
from trainer.checkpoint import (
    CheckpointError,
    CorruptCheckpoint,
    Keeper,
    Manifest,
    StateMismatch,
    Superseded,
    newest,
    read_state,
)
from trainer.storage import StorageError, Store, open_store

IDENTITY: dict[str, str | int] = {"dataset": "d1", "seed": 1}


def state_of(value: float) -> dict[str, Tensor]:
    return {
        "model.w": torch.full((3, 4), float(value)),
        "ema.w": torch.full((3, 4), value / 2),
        "momentum.n": torch.tensor(int(value)),
    }


def keeper(store: Store, keep_last: int = 3, keep_best: int = 1, **changes: Any) -> Keeper:
    settings: dict[str, Any] = {"identity": IDENTITY, "deadline_s": 20.0} | changes
    return Keeper(
        store, "demo", config_sha256="c", keep_last=keep_last, keep_best=keep_best, **settings
    )


def started(store: Store, **changes: Any) -> tuple[Keeper, Manifest | None]:
    group = keeper(store, **changes)
    group.claim()
    parent = group.choose(like=state_of(0))
    group.fence(parent)
    return group, parent


def save(group: Keeper, update: int, wait: bool = False) -> bool:
    """Saves a state that only this group at this update has."""
    value = 1000.0 * group.generation + update
    return group.save(
        state_of(value), update=update, seen=update * 96, epoch=0, facts={"u": update}, wait=wait
    )


def saved(group: Keeper, *updates: int) -> None:
    for update in updates:
        assert save(group, update)
        assert group.flush(20, check=True)


def kept_updates(store: Store) -> list[int]:
    keys = [entry.key for entry in store.list("step-")]
    return [int(key[5:15]) for key in keys if key.endswith("/manifest.json")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


def test_a_fresh_run_has_nothing_to_choose(store: Store) -> None:
    group, parent = started(store)
    assert parent is None
    assert group.generation == 1
    assert group.last_update == -1


def test_the_newest_is_chosen_with_its_state_and_facts(store: Store) -> None:
    group, _ = started(store)
    saved(group, 10, 20)
    assert (group.saves, group.failures, group.skipped, group.last_update) == (2, 0, 0, 20)
    assert group.last_bytes > 100
    assert group.last_saved_at > 0

    second = keeper(store)
    assert second.claim() == 2
    manifest = second.choose(like=state_of(0))
    assert manifest is not None
    assert (manifest.update, manifest.seen, manifest.facts) == (20, 1920, {"u": 20})
    state = second.take()
    assert all(torch.equal(state[name], tensor) for name, tensor in state_of(1020).items())
    second.fence(manifest)
    saved(second, 30)
    found = newest(store, IDENTITY)
    assert found is not None
    assert found[0].parent == manifest.key
    assert torch.equal(found[1]["model.w"], state_of(2030)["model.w"])


def test_any_rank_reads_the_manifest_that_it_is_sent(store: Store) -> None:
    group, _ = started(store)
    saved(group, 10)
    found = newest(store, IDENTITY)
    assert found is not None
    manifest = Manifest.parse(found[0].dump())
    assert torch.equal(read_state(store, manifest)["ema.w"], state_of(1010)["ema.w"])


def test_the_state_is_that_of_the_call(store: Store) -> None:
    group, _ = started(store)
    state = state_of(7)
    group.save(state, update=1, seen=96, epoch=0, facts={})
    for tensor in state.values():
        tensor.zero_()
    group.flush(20, check=True)
    found = newest(store, IDENTITY)
    assert found is not None
    assert torch.equal(found[1]["model.w"], state_of(7)["model.w"])


class Gate:
    """Holds the background thread at an operation until it is opened."""

    def __init__(self, store: Faulty, operation: str) -> None:
        self.reached, self._open = threading.Event(), threading.Event()
        store.hooks[operation] = self._pass

    def _pass(self) -> None:
        self.reached.set()
        assert self._open.wait(20)

    def open(self) -> None:
        self._open.set()


def test_a_save_in_flight_makes_the_next_be_skipped_or_wait(store: Store) -> None:
    faulty = Faulty(store)
    group, _ = started(faulty)
    gate = Gate(faulty, "upload")
    assert save(group, 1)
    assert gate.reached.wait(20)
    assert not save(group, 2)
    assert group.skipped == 1
    assert not group.flush(0.05)
    threading.Timer(0.1, gate.open).start()
    assert save(group, 3, wait=True)
    group.flush(20, check=True)
    assert kept_updates(store) == [1, 3]


def test_an_update_is_kept_once(store: Store) -> None:
    group, _ = started(store)
    saved(group, 10)
    assert save(group, 10)
    group.flush(20, check=True)
    assert group.saves == 1
    again, parent = started(store)
    assert parent is not None
    assert save(again, 10)
    assert again.flush(20)
    assert again.saves == 0


def test_training_is_not_held_by_a_slow_store(store: Store) -> None:
    faulty = Faulty(store)
    group, _ = started(faulty)
    gate = Gate(faulty, "upload")
    state = {"model.w": torch.zeros(1_000_000)}
    group.prepare(state)
    started_s = time.perf_counter()
    assert group.save(state, update=1, seen=1, epoch=0, facts={})
    elapsed_s = time.perf_counter() - started_s
    assert gate.reached.wait(20)
    assert elapsed_s < 1
    assert 0 < group.blocked_s <= elapsed_s
    gate.open()
    group.flush(20, check=True)


def test_the_last_ones_and_the_best_are_kept(store: Store) -> None:
    group, _ = started(store, keep_last=2)
    for update, top1 in [(1, 0.2), (2, 0.9), (3, 0.9), (4, float("nan")), (5, 0.1), (6, 0.3)]:
        saved(group, update)
        group.score(update, top1)
        group.flush(20)
    assert kept_updates(store) == [3, 5, 6]
    group.score(77, 1.0)  # never kept, so without effect
    resumed, parent = started(store, keep_last=1)
    assert parent is not None
    resumed.score(parent.update, 0.8)
    saved(resumed, 7, 8)
    assert kept_updates(store) == [3, 8]
    assert resumed.purge_failures == 0


def test_leftovers_and_stale_checkpoints_are_removed(store: Store) -> None:
    faulty = Faulty(store)
    first, _ = started(faulty)
    saved(first, 1, 2)
    faulty.fail("dead after", "upload")
    save(first, 3)
    first.close(0.3)
    second, parent = started(store)
    assert parent is not None
    assert parent.update == 2
    stale = store.get(parent.key).replace(b'"update": 2', b'"update": 9')
    store.create("step-0000000009-g0001/manifest.json", stale)
    assert [e.key[5:15] for e in store.list("step-")][-2:] == ["0000000003", "0000000009"]
    saved(second, 3)
    left = {entry.key.split("/")[0] for entry in store.list("step-")}
    assert left == {"step-0000000001-g0001", "step-0000000002-g0001", "step-0000000003-g0002"}


def test_a_newer_claim_stops_the_older_groups_retention(store: Store) -> None:
    first, _ = started(store, keep_last=1)
    saved(first, 1, 2)
    second = keeper(store)
    second.claim()
    chosen = second.choose()
    saved(first, 3)
    assert kept_updates(store) == [2, 3]
    second.fence(chosen)
    found = newest(store, IDENTITY)
    assert found is not None
    assert found[0].update == 2


# Two groups at once, in each order of events.


def test_a_stale_group_learns_that_it_is_superseded(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = started(store)
    saved(first, 10)
    second, _ = started(store)
    assert save(first, 20)
    assert first.flush(20)
    assert (first.failures, first.superseded_by) == (1, 2)
    assert "is superseded by generation 2" in caplog.text
    assert kept_updates(store) == [10]
    saved(second, 11)
    with pytest.raises(CheckpointError, match="superseded by generation 2"):
        first.flush(1, check=True)


@pytest.mark.parametrize("moment", ["before the fence", "after the fence"])
def test_a_stale_commit_is_ignored(store: Store, moment: str) -> None:
    faulty = Faulty(store)
    first, _ = started(faulty)
    saved(first, 10)
    second = keeper(store)
    second.claim()
    chosen = second.choose()
    if moment == "before the fence":
        saved(first, 20)
        second.fence(chosen)
    else:  # the fence is drawn between the stale group's last look and its manifest
        faulty.hooks["create"] = lambda: second.fence(chosen)
        saved(first, 20)
    assert kept_updates(store) == [10, 20]
    found = newest(store, IDENTITY)
    assert found is not None
    assert found[0].update == 10
    saved(second, 15)
    assert kept_updates(store) == [10, 15]
    found = newest(store, IDENTITY)
    assert found is not None
    assert torch.equal(found[1]["model.w"], state_of(2015)["model.w"])


def test_a_group_that_was_passed_may_not_begin(store: Store) -> None:
    slow = keeper(store)
    slow.claim()
    assert slow.choose() is None
    fast, _ = started(store)
    saved(fast, 5)
    with pytest.raises(Superseded, match=r"generation 1 of file://.* by generation 2; end this"):
        slow.fence(None)
    found = newest(store, IDENTITY)
    assert found is not None
    assert found[0].generation == 2


def test_groups_that_claim_at_once_get_different_numbers(store: Store) -> None:
    groups = [keeper(store) for _ in range(8)]
    threads = [threading.Thread(target=group.claim) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(group.generation for group in groups) == list(range(1, 9))


# Faults of the store while saving: counted, told, training goes on.


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


# What cannot be restored: skipped by name, and an older one taken.

Damage = Callable[[Path], None]


def edit(name: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(step: Path) -> None:
        (path,) = step.rglob(name)
        path.write_bytes(change(path.read_bytes()))

    return damage


def edit_manifest(**changes: Any) -> Damage:
    def change(data: bytes) -> bytes:
        described = json.loads(data) | changes
        return json.dumps({k: v for k, v in described.items() if v is not None}).encode()

    return edit("manifest.json", change)


def rewrite(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Damage:
    """Another state, with a manifest that vouches for it."""

    def damage(step: Path) -> None:
        (path,) = step.rglob("state.safetensors")
        data = safetensors.torch.save(change(safetensors.torch.load(path.read_bytes())))
        path.write_bytes(data)
        described = json.loads((step / "manifest.json").read_bytes())
        described["objects"][0] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (step / "manifest.json").write_text(json.dumps(described))

    return damage


def flipped(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


STATE = "state.safetensors"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "flipped byte in a tensor": (edit(STATE, flipped), r"state.safetensors: its SHA-256 is"),
    "flipped byte in the header": (
        edit(STATE, lambda data: data.replace(b"F32", b"I32", 1)),
        "its SHA-256 is",
    ),
    "truncated": (edit(STATE, lambda data: data[:-8]), r"it has \d+ bytes, the manifest says"),
    "longer": (edit(STATE, lambda data: data + b"x"), r"it has \d+ bytes, the manifest says"),
    "empty": (edit(STATE, lambda data: b""), "it has 0 bytes, the manifest says"),
    "absent": (lambda step: next(step.rglob(STATE)).unlink(), r"state.safetensors is missing"),
    "manifest not JSON": (edit("manifest.json", lambda data: data[:50]), "manifest is not JSON"),
    "manifest empty": (edit("manifest.json", lambda data: b""), "the manifest is not JSON"),
    "manifest without key": (edit_manifest(seen=None), "the manifest has no 'seen'"),
    "manifest of another format": (edit_manifest(format="torch"), "format is 'torch', expected"),
    "manifest of another step": (edit_manifest(update=3), "the manifest belongs under step-00000"),
    "manifest names another's object": (
        edit_manifest(objects=[{"key": "step-1/x", "size": 1, "sha256": "0" * 64}]),
        r"the objects are \[step-1/x\]",
    ),
    "tensor missing": (
        rewrite(lambda state: {k: v for k, v in state.items() if k != "ema.w"}),
        "tensor 'ema.w' is missing",
    ),
    "tensor too many": (
        rewrite(lambda state: state | {"model.extra": torch.zeros(1)}),
        "tensor 'model.extra' is not expected",
    ),
    "wrong shape": (
        rewrite(lambda state: state | {"model.w": torch.zeros(4, 3)}),
        r"tensor 'model.w' has shape \(4, 3\), expected \(3, 4\)",
    ),
    "wrong kind": (
        rewrite(lambda state: state | {"model.w": torch.zeros(3, 4).half()}),
        "tensor 'model.w' is torch.float16, expected torch.float32",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_skipped_by_name(
    store: Store, tmp_path: Path, damage: Damage, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    group, _ = started(store)
    saved(group, 1, 2)
    damage(tmp_path / "run/step-0000000002-g0001")
    second = keeper(store)
    second.claim()
    with caplog.at_level(logging.WARNING):
        manifest = second.choose(like=state_of(0))
    assert manifest is not None
    assert manifest.update == 1
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"skipping a checkpoint: {store.address}/step-0000000002-g0001/"
    )
    assert re.search(message, record.getMessage())

    damage(tmp_path / "run/step-0000000001-g0001")
    with pytest.raises(CheckpointError) as caught:
        second.choose(like=state_of(0))
    assert f"none of the 2 checkpoints under {store.address} verifies" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reading_names_the_damaged_object(store: Store, tmp_path: Path) -> None:
    group, _ = started(store)
    saved(group, 1)
    found = newest(store, IDENTITY)
    assert found is not None
    edit(STATE, flipped)(tmp_path / "run")
    with pytest.raises(CorruptCheckpoint, match=found[0].objects[0].key):
        read_state(store, found[0])


def test_another_identity_is_refused_with_both_values(store: Store) -> None:
    group, _ = started(store)
    saved(group, 1)
    other = keeper(store, identity=IDENTITY | {"seed": 2})
    other.claim()
    with pytest.raises(StateMismatch, match=r"was made with seed 1, but this run has seed 2; "):
        other.choose()
    assert kept_updates(store) == [1]


def test_a_damaged_fence_is_drawn_again(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = started(store)
    saved(first, 1, 2)
    second, _ = started(store)
    saved(second, 3)
    (tmp_path / "run/fences/0002.json").write_text("{")
    edit(STATE, flipped)(tmp_path / "run/step-0000000003-g0002")
    found = newest(store, IDENTITY)
    assert found is not None
    assert found[0].update == 2
    assert "skipping the fence" in caplog.text


def test_checkpoints_that_vanished_are_told(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = started(store)
    saved(first, 1)
    started(store)
    for entry in store.list("step-"):
        store.remove(entry.key)
    assert newest(store, IDENTITY) is None
    assert "starts afresh: its checkpoints are gone" in caplog.text


def test_what_is_removed_while_it_is_read_is_looked_for_again(store: Store) -> None:
    group, _ = started(store, keep_last=1)
    saved(group, 1)
    faulty = Faulty(store)
    faulty.hooks["size"] = lambda: saved(group, 2)  # its retention takes update 1 away
    found = newest(faulty, IDENTITY)
    assert found is not None
    assert found[0].update == 2
