"""The ledger in a folder: what writers that die, race and are deposed leave behind."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from launcher.budget.ledger import Ledger
from launcher.budget.records import Refund
from launcher.budget.storage import BrokenLedger, LedgerStore
from tests.faulty import Faulty, Kind
from tests.unit.launcher.test_budget_records import interval
from trainer.storage import Changed, StorageError, open_store

NOW_MS = 1_790_000_000_000


def written(store: LedgerStore) -> list[str]:
    return [entry.key for entry in store.store.list(store.folder)]


@pytest.fixture
def store(tmp_path: Path) -> LedgerStore:
    return LedgerStore(open_store(str(tmp_path)), "c")


def test_records_are_there_for_the_next_reader(store: LedgerStore) -> None:
    assert list(store.load().records()) == []
    refund = Refund("r", "c", "webvision", 7, "node lost", "ada", 5)
    store.append([interval(), refund], NOW_MS)
    store.append([], NOW_MS)
    (key,) = written(store)
    assert key.startswith("v1/c/2026/09/21/1790000000000-")
    other = LedgerStore(store.store, "c")
    assert set(other.load().records()) == {interval(), refund}
    assert list(LedgerStore(store.store, "another").load().records()) == []


def test_a_snapshot_takes_the_place_of_segments_one_compaction_later(store: LedgerStore) -> None:
    store.load()
    store.append([interval()], NOW_MS)
    store.compact()
    assert len(written(store)) == 2, "a reader may still be at the segment"
    store.append([interval(pod_uid="q")], NOW_MS)
    store.compact()
    assert len(written(store)) == 2
    store.compact()
    assert written(store) == ["v1/c/snapshot.json"]
    found = LedgerStore(store.store, "c").load()
    assert {each.pod_uid for each in found.intervals()} == {"p", "q"}


def test_a_deposed_writer_finds_out_and_what_it_wrote_counts(store: LedgerStore) -> None:
    store.load()
    store.compact()
    other = LedgerStore(store.store, "c")
    other.load()
    other.append([interval(pod_uid="q")], NOW_MS)
    other.compact()
    store.append([interval()], NOW_MS)
    with pytest.raises(Changed):
        store.compact()
    store.load()
    store.compact()
    found = LedgerStore(store.store, "c").load()
    assert {each.pod_uid for each in found.intervals()} == {"p", "q"}


def test_the_first_snapshot_is_won_by_one(store: LedgerStore) -> None:
    other = LedgerStore(store.store, "c")
    for each in (store, other):
        each.load()
    store.compact()
    with pytest.raises(Changed):
        other.compact()


def test_a_reader_that_is_overtaken_reads_again(store: LedgerStore) -> None:
    store.load()
    store.append([interval()], NOW_MS)
    faulty = Faulty(store.store)
    slow = LedgerStore(faulty, "c")

    def two_compactions() -> None:
        store.compact()
        store.compact()

    faulty.hooks["get"] = two_compactions  # between its listing and the segment
    assert [each.pod_uid for each in slow.load().intervals()] == ["p"]


@pytest.mark.parametrize("text", ["{", "[]", '{"pod_uid": "p"}'])
def test_a_segment_that_is_none_is_named(store: LedgerStore, text: str) -> None:
    store.store.create("v1/c/2026/01/01/1-a.jsonl", f"{text}\n".encode())
    with pytest.raises(BrokenLedger, match=r"v1/c/2026/01/01/1-a\.jsonl, line 1: "):
        store.load()


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}', '{"version": 1}'])
def test_a_snapshot_that_is_none_is_named(store: LedgerStore, text: str) -> None:
    store.store.create("v1/c/snapshot.json", text.encode())
    with pytest.raises(BrokenLedger, match=r"v1/c/snapshot\.json: "):
        store.load()


def test_a_store_shows_whether_it_keeps_conditions(store: LedgerStore) -> None:
    assert store.supports_conditions()
    assert written(store) == []


class Ignoring(Faulty):
    """A server that takes every conditional write."""

    def create(self, key: str, data: bytes) -> None:
        self._inner.put(key, data)

    def replace(self, key: str, data: bytes, tag: str) -> None:
        self._inner.put(key, data)


class Refusing(Faulty):
    """A server that refuses a right tag."""

    def replace(self, key: str, data: bytes, tag: str) -> None:
        raise Changed(key)


@pytest.mark.parametrize("kind", [Ignoring, Refusing])
def test_a_store_that_does_not(store: LedgerStore, kind: type[Faulty]) -> None:
    assert not LedgerStore(kind(store.store), "c").supports_conditions()


class Writers(RuleBasedStateMachine):
    """Two writers at a time, that lose answers, die and take over: nothing durable is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.number = next(COUNT)
        self.oracle = Ledger()
        self.writers = [self.fresh(), self.fresh()]
        self.at = 0

    def fresh(self) -> LedgerStore:
        made = LedgerStore(Faulty(open_store(f"{FOLDER}/{self.number}")), "c")
        made.load()
        return made

    which = st.sampled_from([0, 1])
    uids = st.sampled_from(["p", "q", "r"])

    @rule(which=which, uid=uids, through=st.integers(0, 1000), closed=st.booleans())
    def appends(self, which: int, uid: str, through: int, closed: bool) -> None:
        record = replace(
            interval(), pod_uid=uid, start_ms=0, through_ms=through, peak_ms=0,
            source="containers" if closed else "open",
        )  # fmt: skip
        self.at += 1
        for _ in range(25):  # an answer that was lost may have been a success
            try:
                self.writers[which].append([record], NOW_MS + self.at)
                break
            except StorageError:
                continue
        else:
            raise AssertionError("fails on and on")
        self.oracle.add(record)

    @rule(which=which)
    def compacts(self, which: int) -> None:
        try:
            self.writers[which].compact()
        except StorageError:  # Changed too: it is to read all anew
            self.writers[which] = self.fresh()

    @rule(which=which)
    def dies(self, which: int) -> None:
        self.writers[which] = self.fresh()

    @rule(
        which=which,
        operation=st.sampled_from(["create", "replace", "remove", "get_tagged"]),
        kind=st.sampled_from(["refused", "unanswered"]),
    )
    def fails_next(self, which: int, operation: str, kind: Kind) -> None:
        store = self.writers[which].store
        assert isinstance(store, Faulty)
        store.fail(kind, operation)

    @invariant()
    def a_new_reader_finds_all(self) -> None:
        found = {each.pod_uid: each for each in self.fresh().ledger.intervals()}
        assert found == {each.pod_uid: each for each in self.oracle.intervals()}


COUNT = itertools.count()
FOLDER = ""


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FOLDER
    FOLDER = str(tmp_path_factory.mktemp("writers"))


TestWriters = Writers.TestCase
TestWriters.settings = settings(max_examples=100, stateful_step_count=25)
