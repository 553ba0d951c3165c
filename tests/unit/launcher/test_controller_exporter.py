"""What the controller serves to Prometheus, and who serves it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from launcher.budget.goodput import Told
from launcher.budget.records import Refund
from launcher.controller.efforts import Efforts
from launcher.controller.exporter import Exporter
from launcher.controller.health import Counters
from launcher.controller.metric_table import LEDGER_TABLE, TABLE
from launcher.controller.store import Store
from launcher.controller.treasurer import Treasurer
from tests.unit.launcher.accounts import BEGIN_S, Server, Writer

Labels = frozenset[tuple[str, str]]


@pytest.fixture
def server() -> Server:
    found = Server()
    found.node()
    return found


@pytest.fixture
def writer(server: Server, tmp_path: Path) -> Writer:
    made = Writer(server, tmp_path)
    server.node()
    return made


def exporter_of(writer: Writer) -> Exporter:
    def unused(*_: object) -> None:
        raise AssertionError("budgets are not looked at here")

    treasurer = Treasurer(unused, unused, writer.accounting, unused, unused, unused)  # type: ignore[arg-type]
    return Exporter(
        Store(lambda _: None),
        Counters(),
        lambda: (writer.is_leading, 3),
        writer.accounting,
        treasurer,
    )


def scraped(exporter: Exporter) -> dict[tuple[str, Labels], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exporter.text())
        for sample in family.samples
    }


def value(exporter: Exporter, name: str, **labels: str) -> float:
    """The sum of the samples that bear these labels."""
    found = [
        each
        for (other, told), each in scraped(exporter).items()
        if other == name and labels.items() <= dict(told).items()
    ]
    assert found, name
    return sum(found)


def test_names_and_labels_are_as_the_field_has_them() -> None:
    for name, entry in TABLE.items():
        assert name.endswith("_total") == (entry.kind == "counter"), name
        assert re.search(r"\(in s\)\.$", entry.help) or "_seconds" not in name or (
            "_timestamp_" in name
        ), name  # fmt: skip
        assert not {"job", "instance", "namespace", "pod"} & set(entry.labels)


def test_what_is_stored_is_shown(server: Server, writer: Writer) -> None:
    exporter = exporter_of(writer)
    server.run("p", 8)
    writer.accounting.turn()
    server.advance(30)
    server.end("p")
    server.run("q", 2)
    writer.accounting.record(
        Refund("r", "c", "one", 5000, "node lost", "ada", BEGIN_S * 1000 + 30_000)
    )
    writer.accounting.turn()
    name = "launcher_gpu_allocated_seconds_total"
    assert value(exporter, name, cluster="c", budget="one", gpu_type="H200") == 8 * 30
    assert value(exporter, "launcher_gpu_refunded_seconds_total", reason="node lost") == 5
    assert value(exporter, "launcher_gpus_allocated", budget="one") == 2
    assert value(exporter, "launcher_ledger_open_intervals", cluster="c") == 1
    assert value(exporter, "launcher_ledger_write_failures_total") == 0
    now_s = BEGIN_S + 30
    assert value(exporter, "launcher_ledger_last_success_timestamp_seconds") == now_s
    assert value(exporter, "launcher_controller_due") == 3


def test_an_end_before_what_was_shown_lowers_no_counter(server: Server, writer: Writer) -> None:
    exporter = exporter_of(writer)
    server.run("p", 8)
    writer.accounting.turn()
    end_s = server.at_s + 20
    server.advance(60)
    writer.accounting.turn()
    name = "launcher_gpu_allocated_seconds_total"
    assert value(exporter, name) == 8 * 60
    server.at_s, now_s = end_s, server.at_s
    server.end("p")
    server.at_s = now_s
    writer.accounting.turn()
    assert value(exporter, name) == 8 * 60
    with writer.accounting.reading() as ledger:
        assert ledger.used("one") == 8 * 20_000


def test_only_the_one_that_leads_shows_the_ledger(server: Server, tmp_path: Path) -> None:
    one, two = Writer(server, tmp_path), Writer(server, tmp_path)
    server.node()
    two.is_leading = False
    server.run("p", 8)
    first, second = exporter_of(one), exporter_of(two)
    for writer in (one, two):
        writer.accounting.turn()
    server.advance(60)
    one.accounting.turn()
    shown = value(first, "launcher_gpu_allocated_seconds_total")
    assert not {name for name, _ in scraped(second)} & set(LEDGER_TABLE)
    assert value(second, "launcher_controller_leading") == 0

    one.is_leading, two.is_leading = False, True
    assert not {name for name, _ in scraped(first)} & set(LEDGER_TABLE)
    assert not {name for name, _ in scraped(second)} & set(LEDGER_TABLE), "it has not read it yet"
    two.accounting.turn()
    assert value(second, "launcher_gpu_allocated_seconds_total") >= shown == 8 * 60


def test_goodput_and_waste_add_up_to_what_was_allocated(server: Server, writer: Writer) -> None:
    exporter, efforts = exporter_of(writer), Efforts(writer.accounting)
    server.run("p", 8)
    writer.accounting.turn()
    server.advance(100)
    efforts.hear(("ml", "a"), Told(1, 10, update_s=80, data_wait_s=20, checkpoint_s=5))
    writer.accounting.turn()
    efforts.settle()
    writer.accounting.turn()
    good = value(exporter, "launcher_gpu_goodput_seconds_total", cluster="c", budget="one")
    waste = {
        reason: value(exporter, "launcher_gpu_waste_seconds_total", budget="one", reason=reason)
        for reason in ("startup", "data_wait", "checkpoint", "recompute", "idle")
    }
    assert good == 8 * 60
    assert waste == {
        "startup": 8 * 15, "data_wait": 8 * 20, "checkpoint": 8 * 5, "recompute": 0, "idle": 0,
    }  # fmt: skip
    assert good + sum(waste.values()) == value(exporter, "launcher_gpu_allocated_seconds_total")
