"""The ledger's writer in the controller, turn by turn, on a store that fails as asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.budget.pods import FINALIZER
from launcher.budget.records import Interval, Refund
from launcher.budget.storage import LedgerStore
from launcher.cluster.kinds import NODE
from tests.unit.launcher.accounts import BEGIN_S, Server, Writer, iso
from trainer.storage import open_store


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def writer(server: Server, tmp_path: Path) -> Writer:
    made = Writer(server, tmp_path)
    server.node()
    return made


def stored(folder: Path, uid: str) -> Interval:
    interval = LedgerStore(open_store(str(folder)), "c").load().of_pod(uid)
    assert interval is not None
    return interval


def finalizers(server: Server, uid: str) -> list[str]:
    found: list[str] = server.pods[uid]["metadata"]["finalizers"]
    return found


def test_a_pod_is_let_go_once_its_end_is_stored(
    server: Server, writer: Writer, tmp_path: Path
) -> None:
    server.run("p", 8, "other/first", FINALIZER)
    writer.accounting.turn()
    assert writer.accounting.is_ready
    assert writer.accounting.allocated() == {("one", ""): 8}
    assert writer.accounting.gpus_of_job() == {"job-1": 8}
    assert not stored(tmp_path, "p").is_closed
    server.advance(7)
    server.end("p")
    writer.store.fail("refused", "create")
    writer.accounting.turn()
    assert finalizers(server, "p") == ["other/first", FINALIZER]
    assert writer.accounting.health.write_failures == 1
    assert writer.accounting.failing_s >= 0
    writer.accounting.turn()
    assert finalizers(server, "p") == ["other/first"]
    assert stored(tmp_path, "p").gpu_ms == 8 * 7000
    assert writer.accounting.failing_s == 0
    assert writer.accounting.allocated() == {}
    with writer.accounting.reading() as ledger:
        assert ledger.used("one") == 8 * 7000
    health = writer.accounting.health
    assert (health.open_intervals, health.unreconciled_gpu_ms) == (0, 0)
    assert health.last_success_ms == pytest.approx(server.at_s * 1000, abs=1001)


def test_a_lost_answer_is_no_second_charge(server: Server, writer: Writer, tmp_path: Path) -> None:
    server.run("p")
    server.advance(5)
    server.end("p")
    writer.store.fail("unanswered", "create", after=2)  # past those of the probe
    writer.accounting.turn()
    writer.accounting.turn()
    assert finalizers(server, "p") == []
    assert stored(tmp_path, "p").gpu_ms == 8 * 5000


def test_who_does_not_lead_writes_nothing(server: Server, writer: Writer, tmp_path: Path) -> None:
    writer.is_leading = False
    server.run("p")
    writer.accounting.turn()
    assert writer.store.calls == []
    assert not writer.accounting.is_ready
    assert writer.accounting.allocated() == {}
    writer.is_leading = True
    writer.accounting.turn()
    assert not stored(tmp_path, "p").is_closed


def test_two_that_both_believe_to_lead_store_the_same(
    server: Server, writer: Writer, tmp_path: Path
) -> None:
    other = Writer(server, tmp_path, compact_s=0.0)
    server.node()
    other.is_leading = False
    server.run("p")
    server.run("q")
    writer.accounting.turn()
    other.is_leading = True  # while the first believes still to lead
    server.advance(4)
    server.end("p")
    other.accounting.turn()
    writer.accounting.turn()
    assert stored(tmp_path, "p").gpu_ms == 8 * 4000
    server.advance(4)
    server.end("q")
    other.accounting.turn()
    assert stored(tmp_path, "q").gpu_ms == 8 * 8000


def test_a_deposed_writer_takes_over_anew_if_it_leads_again(
    server: Server, writer: Writer, tmp_path: Path
) -> None:
    other = Writer(server, tmp_path)
    server.node()
    every = Writer(server, tmp_path, compact_s=0.0)
    server.node()
    every.accounting.turn()
    server.run("p")
    other.accounting.turn()  # its snapshot replaces that of `every`
    server.advance(3)
    server.end("p")
    every.accounting.turn()
    assert not every.accounting.is_ready
    every.accounting.turn()
    assert every.accounting.is_ready
    with every.accounting.reading() as ledger:
        assert ledger.used("one") == 8 * 3000


@pytest.mark.parametrize("operation", ["get_tagged", "list", "create"])
def test_a_ledger_that_cannot_be_read_is_asked_again(
    server: Server, writer: Writer, operation: str
) -> None:
    server.run("p")
    writer.store.fail("refused", operation)
    writer.accounting.turn()
    assert not writer.accounting.is_ready
    assert writer.accounting.health.write_failures == 1
    writer.accounting.turn()
    assert writer.accounting.is_ready


def test_a_broken_ledger_is_never_written_over(
    server: Server, writer: Writer, tmp_path: Path
) -> None:
    file = tmp_path / "v1" / "c" / "snapshot.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"version": 2}')
    for _ in range(3):
        writer.accounting.turn()
    assert not writer.accounting.is_ready
    assert file.read_text() == '{"version": 2}'
    assert writer.accounting.health.write_failures == 3


# -- pods that end in odd ways


def test_a_pod_without_the_finalizer_ends_when_its_object_goes(
    server: Server, writer: Writer, tmp_path: Path
) -> None:
    server.run("p", 8, "other/first")
    writer.accounting.turn()
    server.advance(6)
    server.remove("p")
    server.advance(60)
    writer.accounting.turn()
    interval = stored(tmp_path, "p")
    assert interval.source == "sight"
    assert interval.gpu_ms == pytest.approx(8 * 6000, abs=8 * 1000)
    assert writer.accounting.health.unreconciled_gpu_ms == 0


@pytest.mark.parametrize("is_told", [True, False])
def test_a_pod_that_went_unseen_ends_at_its_last_sight_and_is_told_of(
    server: Server, writer: Writer, tmp_path: Path, is_told: bool
) -> None:
    """Its watch lists anew and misses it, or nobody watched at all."""
    server.run("p", 8, "other/first")
    server.advance(2)
    writer.accounting.turn()
    server.advance(30)
    if is_told:
        server.remove("p", is_witnessed=False)
        writer.accounting.turn()
    else:
        del server.pods["p"]
        server.told.clear()
        writer = Writer(server, tmp_path)
        server.node()
        writer.accounting.turn()
    interval = stored(tmp_path, "p")
    assert interval.source == "sight"
    assert interval.gpu_ms == pytest.approx(8 * 2000, abs=8 * 1000)
    assert writer.accounting.health.unreconciled_gpu_ms == pytest.approx(8 * 30_000, abs=8001)
    again = Writer(server, tmp_path)
    again.accounting.turn()
    health = again.accounting.health
    assert health.unreconciled_gpu_ms == writer.accounting.health.unreconciled_gpu_ms


def test_who_takes_over_knows_how_pods_went_meanwhile(
    server: Server, writer: Writer, tmp_path: Path
) -> None:
    other = Writer(server, tmp_path)
    server.node()
    other.is_leading = False
    server.run("p", 8, "other/first")
    writer.accounting.turn()
    writer.is_leading = False
    server.advance(9)
    server.remove("p")
    other.accounting.turn()
    server.advance(9)
    other.is_leading = True
    other.accounting.turn()
    assert stored(tmp_path, "p").gpu_ms == pytest.approx(8 * 9000, abs=8 * 1000)
    assert other.accounting.health.unreconciled_gpu_ms == 0


def test_a_pod_that_only_the_ledger_and_the_server_know_is_not_ended(
    server: Server, writer: Writer, tmp_path: Path
) -> None:
    """The watch of the new leader lags behind what the one before has stored."""
    server.run("p")
    writer.accounting.turn()
    server.told.clear()
    other = Writer(server, tmp_path)
    server.node()
    server.is_down = True
    other.accounting.turn()
    assert not other.accounting.is_ready
    server.is_down = False
    other.accounting.turn()
    assert other.accounting.is_ready
    assert not stored(tmp_path, "p").is_closed


@pytest.mark.parametrize("gpus", [0, 8])
def test_a_pod_that_is_never_charged_is_let_go_when_it_is_deleted(
    server: Server, writer: Writer, gpus: int
) -> None:
    server.run("p", gpus)
    pod = server.pods["p"]
    if gpus:
        del pod["spec"]["nodeName"]
        pod["status"] = {"phase": "Pending"}
    server.changed("p")
    writer.accounting.turn()
    assert finalizers(server, "p") == [FINALIZER]
    server.delete("p")
    writer.accounting.turn()
    assert finalizers(server, "p") == []


def test_a_pod_that_its_node_refuses_is_closed_and_let_go(
    server: Server, writer: Writer, tmp_path: Path
) -> None:
    """The kubelet takes its condition PodScheduled back."""
    server.run("p")
    writer.accounting.turn()
    server.advance(2)
    server.pods["p"]["status"] = {"phase": "Failed", "reason": "UnexpectedAdmissionError"}
    server.changed("p")
    writer.accounting.turn()
    assert finalizers(server, "p") == []
    assert stored(tmp_path, "p").gpu_ms == pytest.approx(8 * 2000, abs=8 * 1000)


@pytest.mark.parametrize("is_removed", [True, False])
def test_a_deleted_pod_of_a_lost_node_is_closed(
    server: Server, tmp_path: Path, is_removed: bool
) -> None:
    writer = Writer(server, tmp_path, lost_after_s=60)
    server.node()
    server.run("p")
    writer.accounting.turn()
    if is_removed:
        node = {"metadata": {"name": "n", "uid": "n"}, "status": {}}
        server.tell(NODE, "DELETED", node)
    else:
        silent = {"type": "Ready", "status": "Unknown", "lastTransitionTime": iso(server.at_s)}
        server.node(conditions=[silent])
    server.delete("p", grace_s=30)
    server.advance(50)
    writer.accounting.turn()
    assert finalizers(server, "p") == [FINALIZER], "it may come back"
    server.advance(12)
    writer.accounting.turn()
    assert finalizers(server, "p") == []
    assert stored(tmp_path, "p").source == "sight"


def test_a_pod_is_charged_once_its_node_is_known(server: Server, tmp_path: Path) -> None:
    writer = Writer(server, tmp_path, extend_s=1e9)
    server.run("p")
    writer.accounting.turn()
    writer.accounting.turn()
    with writer.accounting.reading() as ledger:
        assert ledger.of_pod("p") is None
    server.node()
    writer.accounting.turn()
    assert stored(tmp_path, "p").owner.gpu_type == "H200"


def test_the_first_sight_of_an_end_holds(server: Server, writer: Writer, tmp_path: Path) -> None:
    server.run("p", 8, "other/first")
    server.pods["p"]["status"] |= {"phase": "Failed", "containerStatuses": []}
    server.advance(3)
    server.changed("p")
    writer.accounting.turn()
    first = stored(tmp_path, "p")
    assert first.source == "sight"
    server.advance(1000)
    server.changed("p")
    writer.accounting.turn()
    again = Writer(server, tmp_path)
    server.node()
    server.changed("p")
    again.accounting.turn()
    assert stored(tmp_path, "p").through_ms == first.through_ms


# -- what grows


def test_what_runs_is_stored_as_running_at_its_pace_only(server: Server, tmp_path: Path) -> None:
    writer = Writer(server, tmp_path, extend_s=1e9)
    server.node()
    server.run("p")
    writer.accounting.turn()
    calls = len(writer.store.calls)
    for _ in range(5):
        server.advance(10)
        server.changed("p")
        writer.accounting.turn()
    assert len(writer.store.calls) == calls
    writer.accounting._extend_at = 0.0
    writer.accounting.turn()
    assert stored(tmp_path, "p").gpu_ms == pytest.approx(8 * 50_000, abs=8 * 1000)


@pytest.mark.parametrize("has_conditions", [True, False])
def test_segments_are_bounded(server: Server, tmp_path: Path, has_conditions: bool) -> None:
    writer = Writer(server, tmp_path, segments_most=5)
    server.node()
    if not has_conditions:
        writer.accounting._store.supports_conditions = lambda: False  # type: ignore[method-assign]
    most = 0
    for number in range(40):
        server.run(f"p{number}")
        server.advance(200)
        server.end(f"p{number}")
        writer.accounting.turn()
        most = max(most, len([*tmp_path.glob("v1/c/*/*/*/*.jsonl")]))
    # Without conditions those of the last hour stay.
    assert most <= (10 if has_conditions else 10 + 3600 / 200)
    ledger = LedgerStore(open_store(str(tmp_path)), "c").load()
    assert ledger.used("one") == 40 * 8 * 200_000


def test_a_refund_is_stored_though_the_store_fails_first(
    server: Server, writer: Writer, tmp_path: Path
) -> None:
    writer.accounting.turn()
    refund = Refund("r", "c", "one", 5, "node lost", "ada", BEGIN_S * 1000)
    writer.accounting.record(refund)
    writer.store.fail("refused", "create")
    writer.accounting.turn()
    writer.accounting.turn()
    assert list(LedgerStore(open_store(str(tmp_path)), "c").load().refunds()) == [refund]
