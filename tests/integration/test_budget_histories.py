"""Random histories of a cluster: whatever crashes, races and is told twice, the sum is exact.

Pods come, are placed, end, are deleted and forced; their news reach two writers late, twice and out
of order, who read the cluster's clock late or ahead; both write at times, their answers are lost,
they are killed, and whether a finalizer is off they may not hear. In the end the ledger says of
every pod what the cluster's own clock says, to the millisecond, and no pod is held for ever.
"""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from launcher.budget.accountant import Accountant
from launcher.budget.ledger import Key
from launcher.budget.pods import FINALIZER, Sight
from launcher.budget.records import Interval, Refund
from launcher.budget.storage import LedgerStore
from tests.faulty import Faulty, Kind
from trainer.storage import StorageError, open_store

BEGIN_MS = 1_790_000_000_000
BUDGETS = ("one", "two")
OTHER = "other.test/finalizer"
COUNT = itertools.count()
Pod = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[None]:
    """Thousands of small files that are synced: in memory, where a disk would take minutes."""
    Histories.folder = Path("/dev/shm") / f"histories-{next(COUNT)}-{id(COUNT)}"
    yield
    shutil.rmtree(Histories.folder, ignore_errors=True)


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


class Cluster:
    """The API server's objects and its clock, and what really happened."""

    def __init__(self) -> None:
        self.now_ms = BEGIN_MS
        self.pods: dict[str, Pod] = {}
        self.ends: dict[str, int] = {}
        """When the containers of a pod really ended."""
        self.news: list[Pod] = []
        self.truth: dict[str, tuple[str, int, int]] = {}
        """Budget, GPUs and start of each pod that was placed."""

    def create(self, gpus: int, budget: str) -> None:
        uid = f"pod-{next(COUNT)}"
        self.pods[uid] = {
            "metadata": {
                "uid": uid, "namespace": "ml", "finalizers": [FINALIZER],
                "labels": {"launcher.dev/budget": budget, "launcher.dev/job": "a"},
            },
            "spec": {
                "containers": [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": gpus}}}]
            },
            "status": {"phase": "Pending"},
        }  # fmt: skip
        self._tell(uid)

    def place(self, uid: str) -> None:
        pod = self.pods[uid]
        pod["spec"]["nodeName"] = "n"
        placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": iso(self.now_ms)}
        running = {"running": {"startedAt": iso(self.now_ms)}}
        pod["status"] = {
            "phase": "Running",
            "conditions": [placed],
            "containerStatuses": [{"name": "a", "containerID": "x", "state": running}],
        }
        (container,) = pod["spec"]["containers"]
        gpus = container["resources"]["limits"]["nvidia.com/gpu"]
        budget = pod["metadata"]["labels"]["launcher.dev/budget"]
        self.truth[uid] = (budget, gpus, self.now_ms)
        self._tell(uid)

    def may_be_placed(self, uid: str) -> bool:
        """The API server refuses a node to a pod that is being deleted."""
        return uid not in self.truth and "deletionTimestamp" not in self.pods[uid]["metadata"]

    def end(self, uid: str, phase: str) -> None:
        status = self.pods[uid]["status"]
        status["phase"] = phase
        ended = {"terminated": {"exitCode": 0, "finishedAt": iso(self.now_ms)}}
        status["containerStatuses"][0]["state"] = ended
        self.ends[uid] = self.now_ms
        self._tell(uid)
        self._collect(uid)

    def delete(self, uid: str) -> None:
        self.pods[uid]["metadata"].setdefault("deletionTimestamp", iso(self.now_ms + 30_000))
        self._tell(uid)
        self._collect(uid)

    def release(self, uid: str) -> None:
        if uid in self.pods:
            finalizers = self.pods[uid]["metadata"]["finalizers"]
            if FINALIZER in finalizers:
                finalizers.remove(FINALIZER)
            self._tell(uid)
            self._collect(uid)

    def meddle(self, uid: str) -> None:
        """Somebody else's finalizer comes, and goes the next time."""
        finalizers = self.pods[uid]["metadata"]["finalizers"]
        if OTHER in finalizers:
            finalizers.remove(OTHER)
        elif "deletionTimestamp" not in self.pods[uid]["metadata"]:
            finalizers.insert(0, OTHER)
        self._tell(uid)
        self._collect(uid)

    def _collect(self, uid: str) -> None:
        """The API server removes what is deleted, has ended and that nobody holds any more."""
        pod = self.pods[uid]
        is_over = uid in self.ends or uid not in self.truth
        if "deletionTimestamp" in pod["metadata"] and is_over and not pod["metadata"]["finalizers"]:
            del self.pods[uid]

    def _tell(self, uid: str) -> None:
        self.news.append(copy.deepcopy(self.pods[uid]))


class Histories(RuleBasedStateMachine):
    folder = Path()

    def __init__(self) -> None:
        super().__init__()
        self.place = self.folder / str(next(COUNT))
        self.cluster = Cluster()
        self.shown: dict[Key, int] = {}
        self.refunds: list[Refund] = []
        self.cluster.create(8, "one")
        self.cluster.place(next(iter(self.cluster.pods)))
        self.writers: list[Accountant | None] = [None, None]
        self.stores: list[Faulty] = []
        for which in (0, 1):
            self.stores.append(Faulty(open_store(str(self.place))))
            self.lead(which)

    which = st.sampled_from([0, 1])
    number = st.integers(0, 1 << 16)

    # -- the cluster

    @rule(gpus=st.integers(1, 8), budget=st.sampled_from(BUDGETS), is_placed=st.booleans())
    def a_pod_is_made(self, gpus: int, budget: str, is_placed: bool) -> None:
        self.cluster.create(gpus, budget)
        if is_placed:
            self.cluster.place(next(reversed(self.cluster.pods)))

    @rule(number=number)
    def a_pod_is_placed(self, number: int) -> None:
        cluster = self.cluster
        self.do(number, cluster.place, [u for u in cluster.pods if cluster.may_be_placed(u)])

    @rule(number=number, phase=st.sampled_from(["Succeeded", "Failed"]))
    def a_pod_ends(self, number: int, phase: str) -> None:
        self.do(number, lambda uid: self.cluster.end(uid, phase), self.running())

    @rule(number=number)
    def a_pod_is_deleted(self, number: int) -> None:
        self.do(number, self.cluster.delete, list(self.cluster.pods))

    @rule(number=number)
    def another_finalizer_comes_or_goes(self, number: int) -> None:
        self.do(number, self.cluster.meddle, list(self.cluster.pods))

    @rule(number=number, ms=st.integers(1, 100_000), which=which)
    def a_pod_ends_and_is_told_of_late(self, number: int, ms: int, which: int) -> None:
        """It counts as running up to now, and that is stored, before its end is told."""
        running, writer = self.running(), self.writers[which]
        if running:
            uid = sorted(running)[number % len(running)]
            before = copy.deepcopy(self.cluster.pods[uid])
            self.cluster.end(uid, "Succeeded")
            self.cluster.now_ms += ms
            if writer is not None:
                writer.see(before, self.sight())
                self.write(which)

    @rule(ms=st.integers(1, 100_000))
    def time_goes_on(self, ms: int) -> None:
        self.cluster.now_ms += ms

    def running(self) -> list[str]:
        cluster = self.cluster
        return [u for u in cluster.pods if u in cluster.truth and u not in cluster.ends]

    @staticmethod
    def do(number: int, act: Any, uids: list[str]) -> None:
        if uids:
            act(sorted(uids)[number % len(uids)])

    # -- the writers

    @rule(which=which, number=number, lag_ms=st.integers(-5000, 3000), knows_node=st.booleans())
    def some_news_arrive(self, which: int, number: int, lag_ms: int, knows_node: bool) -> None:
        """Any of all news, so also old ones again; the server's time is known late, or ahead."""
        writer = self.writers[which]
        if writer is not None and self.cluster.news:
            pod = self.cluster.news[number % len(self.cluster.news)]
            writer.see(pod, self.sight(lag_ms, knows_node))

    @rule(which=which, budget=st.sampled_from(BUDGETS), gpu_ms=st.integers(1, 1000))
    def time_is_given_back(self, which: int, budget: str, gpu_ms: int) -> None:
        """A person asks until it is stored."""
        refund = Refund(f"r-{len(self.refunds)}", "c", budget, gpu_ms, "node lost", "ada", BEGIN_MS)
        self.refunds.append(refund)
        writer = self.writers[which]
        if writer is not None:
            writer.record(refund)
        for _ in range(40):
            if (writer := self.writers[which]) is not None:
                try:
                    writer.flush(self.cluster.now_ms)
                    break
                except StorageError:
                    continue
            self.lead(which)
            if (writer := self.writers[which]) is not None:
                writer.record(refund)

    @rule(which=which)
    def a_writer_looks_at_all_and_writes(self, which: int) -> None:
        writer = self.writers[which]
        if writer is not None:
            self.look(writer)
        self.write(which)

    @rule(which=which)
    def a_writer_writes(self, which: int) -> None:
        self.write(which)

    @rule(which=which, number=number, is_heard=st.booleans())
    def a_finalizer_is_taken_off_or_not(self, which: int, number: int, is_heard: bool) -> None:
        """The request is lost, or its answer, or another writer was first."""
        writer = self.writers[which]
        if writer is not None and (may_go := writer.may_go()):
            uid = may_go[number % len(may_go)]
            if is_heard:
                writer.released(uid)  # as for a pod that was not found
                if self.cluster.pods.get(uid, {}).get("metadata", {}).get("finalizers"):
                    self.cluster.release(uid)
            elif number % 2:
                self.cluster.release(uid)

    @rule(which=which)
    def a_snapshot_is_made(self, which: int) -> None:
        writer = self.writers[which]
        if writer is not None:
            try:
                writer.compact()
            except StorageError:
                self.lead(which)

    @rule(which=which)
    def a_writer_is_killed_and_comes_back(self, which: int) -> None:
        self.lead(which)

    @rule(
        which=which,
        operation=st.sampled_from(["create", "replace", "get_tagged", "list", "get", "remove"]),
        kind=st.sampled_from(["refused", "unanswered"]),
    )
    def the_store_fails_next(self, which: int, operation: str, kind: Kind) -> None:
        self.stores[which].fail(kind, operation)

    def lead(self, which: int) -> None:
        made = Accountant(LedgerStore(self.stores[which], "c"))
        try:
            made.take_over(
                [(pod, self.sight()) for pod in copy.deepcopy(self.cluster.pods).values()]
            )
        except StorageError:
            self.writers[which] = None
            return
        self.writers[which] = made

    def look(self, writer: Accountant) -> None:
        for pod in copy.deepcopy(self.cluster.pods).values():
            writer.see(pod, self.sight())

    def write(self, which: int) -> None:
        writer = self.writers[which]
        if writer is None:
            self.lead(which)
            return
        try:
            may_go = writer.flush(self.cluster.now_ms)
        except StorageError:
            return
        for uid in may_go:
            self.cluster.release(uid)
            writer.released(uid)

    def sight(self, lag_ms: int = 0, knows_node: bool = True) -> Sight:
        labels = {"nvidia.com/gpu.product": "H200"} if knows_node else None
        return Sight("c", self.cluster.now_ms + lag_ms, labels)

    # -- what must hold

    @invariant()
    def counters_never_fall(self) -> None:
        """Those of a leader, who begins with all that is stored."""
        counted = LedgerStore(open_store(str(self.place)), "c").load().counted(by_label)
        assert all(counted.get(key, 0) >= value for key, value in self.shown.items())
        self.shown = counted

    @invariant()
    def a_pod_that_is_gone_is_stored(self) -> None:
        stored = LedgerStore(open_store(str(self.place)), "c").load()
        for uid in self.cluster.truth.keys() - self.cluster.pods.keys():
            interval = stored.of_pod(uid)
            assert interval is not None
            assert interval.is_closed

    def teardown(self) -> None:
        """In the end the sum is exact, and what is deleted is gone."""
        cluster = self.cluster
        for uid in self.running():
            cluster.end(uid, "Succeeded")
        for uid in list(cluster.pods):
            if OTHER in cluster.pods[uid]["metadata"]["finalizers"]:
                cluster.meddle(uid)
        for _ in range(40):  # as often as the store was told to fail
            for which in (0, 1):
                self.a_writer_looks_at_all_and_writes(which)
        assert not [p for p in cluster.pods.values() if "deletionTimestamp" in p["metadata"]]
        stored = LedgerStore(open_store(str(self.place)), "c").load()
        for uid, (_, gpus, start_ms) in cluster.truth.items():
            interval = stored.of_pod(uid)
            assert interval is not None
            assert interval.gpu_ms == gpus * (cluster.ends[uid] - start_ms)
        for budget in BUDGETS:
            oracle = sum(
                gpus * (cluster.ends[uid] - start_ms)
                for uid, (of, gpus, start_ms) in cluster.truth.items()
                if of == budget
            )
            oracle -= sum(each.gpu_ms for each in self.refunds if each.budget == budget)
            assert stored.used(budget) == oracle
            middle = (BEGIN_MS + cluster.now_ms) // 2
            parts = [stored.used(budget, 0, middle), stored.used(budget, middle)]
            assert sum(parts) == oracle


def by_label(each: Interval) -> Key:
    return each.owner.budget, each.owner.gpu_type


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=1000,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
