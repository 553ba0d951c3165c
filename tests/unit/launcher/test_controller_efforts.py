"""What GPU time was spent on, followed by one controller and the next, on a real ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.budget.goodput import Told
from launcher.budget.records import Effort
from launcher.budget.storage import LedgerStore
from launcher.controller.efforts import Efforts
from tests.unit.launcher.accounts import Server, Writer
from trainer.storage import open_store

JOB = ("ml", "a")


@pytest.fixture
def server() -> Server:
    return Server()


def stored(folder: Path) -> dict[str, Effort]:
    ledger = LedgerStore(open_store(str(folder)), "c").load()
    return {each.job_uid: each for each in ledger.efforts()}


def test_a_job_is_followed_from_one_controller_to_the_next(server: Server, tmp_path: Path) -> None:
    one, two = Writer(server, tmp_path), Writer(server, tmp_path)
    first, second = Efforts(one.accounting), Efforts(two.accounting)
    two.is_leading = False
    server.node()
    server.run("p")
    one.accounting.turn()
    first.settle()
    server.advance(100)
    first.hear(JOB, Told(1, 10, update_s=100, data_wait_s=20))
    second.hear(JOB, Told(1, 10, update_s=100, data_wait_s=20))
    one.accounting.turn()
    first.settle()
    two.accounting.turn()
    second.settle()
    one.accounting.turn()
    assert stored(tmp_path)["job-1"].wasted()["data_wait"] == 8 * 20_000
    assert stored(tmp_path)["job-1"].good_ms == 8 * 80_000

    one.is_leading, two.is_leading = False, True
    two.accounting.turn()
    first.settle()
    second.settle()
    server.advance(50)
    server.end("p")
    two.accounting.turn()
    second.settle()
    two.accounting.turn()
    after = stored(tmp_path)["job-1"]
    assert after.total_ms == 8 * 150_000
    assert after.idle_ms == 8 * 50_000, "nobody has read of it"


def test_a_job_that_ended_while_nobody_led_is_settled_by_the_next(
    server: Server, tmp_path: Path
) -> None:
    one = Writer(server, tmp_path)
    first = Efforts(one.accounting)
    server.node()
    server.run("p")
    one.accounting.turn()
    server.advance(60)
    first.hear(JOB, Told(1, 6, update_s=60))
    one.accounting.turn()
    first.settle()
    one.accounting.turn()
    server.advance(30)
    server.end("p")

    two = Writer(server, tmp_path)
    second = Efforts(two.accounting)
    server.node()
    server.changed("p")
    one.is_leading = False
    two.accounting.turn()
    second.settle()
    two.accounting.turn()
    after = stored(tmp_path)["job-1"]
    assert (after.good_ms, after.total_ms) == (8 * 60_000, 8 * 90_000)


def test_a_job_whose_metrics_nobody_can_read_is_left_out(server: Server, tmp_path: Path) -> None:
    writer = Writer(server, tmp_path)
    efforts = Efforts(writer.accounting)
    server.node()
    server.run("p")
    for _ in range(3):
        writer.accounting.turn()
        efforts.settle()
        server.advance(60)
    writer.accounting.turn()
    assert stored(tmp_path) == {}


def test_two_jobs_of_one_name_are_told_apart(server: Server, tmp_path: Path) -> None:
    writer = Writer(server, tmp_path)
    efforts = Efforts(writer.accounting)
    server.node()
    for number, uid in ((1, "p"), (2, "q")):
        server.run(uid)
        server.pods[uid]["metadata"]["ownerReferences"][0]["uid"] = f"job-{number}"
        server.changed(uid)
        writer.accounting.turn()
        server.advance(60)
        efforts.hear(JOB, Told(1, 6, update_s=50))
        writer.accounting.turn()
        efforts.settle()
        server.end(uid)
        writer.accounting.turn()
        efforts.settle()
        writer.accounting.turn()
    found = stored(tmp_path)
    assert {uid: each.good_ms for uid, each in found.items()} == {
        "job-1": 8 * 50_000,
        "job-2": 8 * 50_000,
    }
    assert all(each.total_ms == 8 * 60_000 for each in found.values())
