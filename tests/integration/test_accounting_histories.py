"""Random histories of the controller's part: watches that lag, Leases lost, leaders killed.

Below it `test_budget_histories.py` does the same with the records alone. Here news come in order,
as a watch's do, but late; whoever starts anew lists first; and two may believe to lead.
"""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from launcher.budget.pods import FINALIZER
from launcher.budget.storage import LedgerStore
from launcher.cluster.kinds import NODE, POD
from launcher.cluster.watch import Change
from launcher.controller.brief import brief
from tests.faulty import Kind
from tests.unit.launcher.accounts import Server, Writer
from trainer.storage import open_store

COUNT = itertools.count()
OTHER = "other.test/x"


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[None]:
    """Thousands of small files that are synced: in memory, where a disk would take minutes."""
    Histories.folder = Path("/dev/shm") / f"accounting-{next(COUNT)}-{id(COUNT)}"
    yield
    shutil.rmtree(Histories.folder, ignore_errors=True)


class Lagging:
    """A watch between the server and a writer: all is told, in order, when it is let through."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.queue: list[tuple[Any, Change]] = []

    def tell(self, kind: Any, change: Change) -> None:
        self.queue.append((kind, copy.deepcopy(change)))

    def let_through(self, count: int) -> None:
        due, self.queue = self.queue[:count], self.queue[count:]
        for kind, change in due:
            self.writer.accounting.tell(kind, change)


class Histories(RuleBasedStateMachine):
    folder = Path()

    def __init__(self) -> None:
        super().__init__()
        self.place = self.folder / str(next(COUNT))
        self.server = Server()
        self.starts: dict[str, tuple[int, float]] = {}
        """GPUs, and when it was given its node."""
        self.ends: dict[str, float] = {}
        self.watches: list[Lagging] = []
        for which in (0, 1):
            self.watches.append(self.start(which == 0))

    which = st.sampled_from([0, 1])
    number = st.integers(0, 1 << 16)

    def start(self, is_leading: bool) -> Lagging:
        """A new controller: it lists what there is."""
        writer = Writer(self.server, self.place, compact_s=0.0, segments_most=3)
        self.server.told.remove(writer.accounting)
        writer.is_leading = is_leading
        watch = Lagging(writer)
        node = {"metadata": {"name": "n", "uid": "n", "labels": {}}, "status": {}}
        writer.accounting.tell(NODE, Change("ADDED", brief(NODE, node)))
        for pod in copy.deepcopy(list(self.server.pods.values())):
            writer.accounting.tell(POD, Change("ADDED", brief(POD, pod)))
        self.server.told.append(watch)  # type: ignore[arg-type]
        return watch

    # -- the cluster

    @rule(gpus=st.integers(1, 8), is_placed=st.booleans())
    def a_pod_is_made(self, gpus: int, is_placed: bool) -> None:
        uid = f"p{len(self.starts)}-{next(COUNT)}"
        if is_placed:
            self.starts[uid] = (gpus, self.server.at_s)
            self.server.run(uid, gpus)
        else:
            self.server.wait(uid, gpus)

    @rule(number=number)
    def a_pod_ends(self, number: int) -> None:
        if running := sorted(u for u in self.server.pods if self.is_running(u)):
            self.end(running[number % len(running)])

    def end(self, uid: str) -> None:
        self.ends[uid] = self.server.at_s
        self.server.end(uid)

    def is_running(self, uid: str) -> bool:
        return uid in self.starts and uid not in self.ends

    @rule(number=number, grace_s=st.sampled_from([0, 30]))
    def a_pod_is_deleted(self, number: int, grace_s: int) -> None:
        if uids := sorted(self.server.pods):
            uid = uids[number % len(uids)]
            if "deletionTimestamp" not in self.server.pods[uid]["metadata"]:
                self.server.delete(uid, grace_s)

    @rule(number=number)
    def another_finalizer_comes_or_goes(self, number: int) -> None:
        if uids := sorted(self.server.pods):
            uid = uids[number % len(uids)]
            finalizers = self.server.pods[uid]["metadata"]["finalizers"]
            if OTHER in finalizers:
                finalizers.remove(OTHER)
            else:
                finalizers.insert(0, OTHER)
            self.server.changed(uid)

    @rule(is_witnessed=st.booleans())
    def what_nobody_holds_is_removed(self, is_witnessed: bool) -> None:
        """The server does it at once; that a watch was broken then, it may only miss it."""
        self.remove(is_witnessed)

    def remove(self, is_witnessed: bool = True) -> None:
        for uid, pod in list(self.server.pods.items()):
            metadata = pod["metadata"]
            is_deleted = "deletionTimestamp" in metadata and not self.is_running(uid)
            if is_deleted and not metadata["finalizers"]:
                self.server.remove(uid, is_witnessed)

    @rule(seconds=st.integers(1, 100))
    def time_goes_on(self, seconds: int) -> None:
        self.server.advance(seconds)

    @rule(is_down=st.booleans())
    def the_api_server_goes_or_comes(self, is_down: bool) -> None:
        self.server.is_down = is_down

    # -- the controllers

    @rule(which=which, count=st.integers(1, 8))
    def some_news_arrive(self, which: int, count: int) -> None:
        self.watches[which].let_through(count)

    @rule(which=which, is_leading=st.booleans())
    def the_lease_is_won_or_lost(self, which: int, is_leading: bool) -> None:
        self.watches[which].writer.is_leading = is_leading

    @rule(which=which)
    def a_turn(self, which: int) -> None:
        self.watches[which].writer.accounting.turn()

    @rule(which=which, is_leading=st.booleans())
    def a_controller_is_killed_and_comes_back(self, which: int, is_leading: bool) -> None:
        self.server.told.remove(self.watches[which])  # type: ignore[arg-type]
        self.watches[which] = self.start(is_leading)

    @rule(
        which=which,
        operation=st.sampled_from(["create", "replace", "get_tagged", "list", "get", "remove"]),
        kind=st.sampled_from(["refused", "unanswered"]),
    )
    def the_store_fails_next(self, which: int, operation: str, kind: Kind) -> None:
        self.watches[which].writer.store.fail(kind, operation)

    # -- what must hold

    @invariant()
    def a_pod_that_is_let_go_is_stored(self) -> None:
        stored = LedgerStore(open_store(str(self.place)), "c").load()
        for uid in self.starts:
            pod = self.server.pods.get(uid)
            if pod is None or FINALIZER not in pod["metadata"]["finalizers"]:
                interval = stored.of_pod(uid)
                assert interval is not None
                assert interval.is_closed

    def teardown(self) -> None:
        """In the end the sum is exact, and what is deleted is gone."""
        self.server.is_down = False
        for uid in list(self.server.pods):
            if self.is_running(uid):
                self.end(uid)
            if OTHER in self.server.pods[uid]["metadata"]["finalizers"]:
                self.server.pods[uid]["metadata"]["finalizers"].remove(OTHER)
                self.server.changed(uid)
        for _ in range(40):  # as often as the store was told to fail
            for which, watch in enumerate(self.watches):
                watch.writer.is_leading = which == 0
                watch.let_through(1000)
                watch.writer.accounting.turn()
        self.remove()
        assert not [p for p in self.server.pods.values() if "deletionTimestamp" in p["metadata"]]
        stored = LedgerStore(open_store(str(self.place)), "c").load()
        assert {each.pod_uid for each in stored.intervals()} == set(self.starts)
        for uid, (gpus, start_s) in self.starts.items():
            interval = stored.of_pod(uid)
            assert interval is not None
            assert interval.gpu_ms == gpus * (self.ends[uid] - start_s) * 1000
        assert self.watches[0].writer.accounting.allocated() == {}


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=400,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)
