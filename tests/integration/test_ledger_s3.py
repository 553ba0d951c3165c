"""The ledger's writer on a real S3 server, which is away for a while."""

from __future__ import annotations

import pytest

from launcher.budget.storage import LedgerStore
from tests.servers import S3Server
from tests.unit.launcher.accounts import Server, Writer
from trainer.storage import open_store


def test_what_ends_while_the_store_is_away_is_stored_once_it_is_back(
    s3: S3Server, s3_address: str
) -> None:
    server = Server()
    writer = Writer(server, s3_address, turn_s=0.0)
    server.node()
    server.run("p")
    writer.accounting.turn()
    assert writer.accounting.is_ready
    assert writer.accounting._has_conditions, "this server keeps its promises on conditional writes"
    server.advance(5)
    server.end("p")
    s3.kill()
    try:
        writer.accounting.turn()
        assert server.pods["p"]["metadata"]["finalizers"]
        assert writer.accounting.health.write_failures == 1
        with writer.accounting.reading() as ledger:
            assert not [each for each in ledger.intervals() if each.is_closed], "it is not stored"
    finally:
        s3.start()
    writer.accounting.turn()
    assert not server.pods["p"]["metadata"]["finalizers"]
    assert LedgerStore(open_store(s3_address), "c").load().used("one") == 8 * 5000


@pytest.mark.usefixtures("s3")
def test_a_deposed_writer_finds_its_snapshot_replaced(s3_address: str) -> None:
    server = Server()
    one, two = (Writer(server, s3_address, compact_s=0.0) for _ in range(2))
    server.node()
    server.run("p")
    one.accounting.turn()
    two.accounting.turn()
    server.advance(5)
    server.end("p")
    one.accounting.turn()
    assert not one.accounting.is_ready
    one.accounting.turn()
    assert one.accounting.is_ready
    assert LedgerStore(open_store(s3_address), "c").load().used("one") == 8 * 5000
