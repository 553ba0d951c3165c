"""Saving and restoring on a real folder: what is kept, chosen, removed, and by which group."""

from __future__ import annotations

import threading
import time

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
    Manifest,
    Superseded,
    newest,
    read_state,
)
from trainer.storage import Store


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
