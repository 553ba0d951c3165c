"""What was used: sums by any facts and days, exact, and how `launcher usage` prints them."""

from __future__ import annotations

import csv
import json
import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.budget.ledger import Ledger
from launcher.budget.records import Interval, Owner, Refund
from launcher.budget.storage import LedgerStore
from launcher.budget.usage import Question, days, usage
from launcher.cli.main import run
from trainer.storage import open_store

DAY_MS = 86_400_000
JUNE_MS = 1_780_272_000_000
"""2026-06-01T00:00:00Z."""


def interval(uid: str, start_ms: int, through_ms: int, **facts: Any) -> Interval:
    owner = {
        "cluster": "default", "budget": "webvision", "namespace": "ml", "job": "a",
        "job_uid": "u-a", "user": "ann", "model": "senet154", "stage": "train", "gpu_type": "A100",
    }  # fmt: skip
    gpus = facts.pop("gpus", 8)
    source = facts.pop("source", "containers")
    return Interval(uid, Owner(**owner | facts), "n-1", gpus, start_ms, through_ms, source=source)


RECORDS = (
    interval("p-1", JUNE_MS - 3_600_000, JUNE_MS + 1_800_001),
    interval("p-2", JUNE_MS + 5, JUNE_MS + 7, job="b", job_uid="u-b", user="bob", gpus=1),
    interval("p-3", JUNE_MS, JUNE_MS + 60_000, job="b", job_uid="u-b", user="bob", source="open"),
    Refund("r-1", "default", "webvision", 1000, "node lost", "ann", JUNE_MS, "p-1"),
)


@given(
    start=st.integers(0, 5 * DAY_MS), length=st.integers(0, 5 * DAY_MS), gpus=st.integers(0, 9),
    begin=st.integers(0, 10 * DAY_MS), span=st.integers(0, 10 * DAY_MS),
)  # fmt: skip
def test_days_conserve_the_sum(start: int, length: int, gpus: int, begin: int, span: int) -> None:
    one = interval("p", start, start + length, gpus=gpus)
    found = list(days(one, begin, begin + span))
    assert sum(part for _, part in found) == one.within(begin, begin + span)
    assert len({day for day, _ in found}) == len(found)
    assert all(part <= gpus * DAY_MS for _, part in found)


def test_a_day_ends_at_midnight_of_utc() -> None:
    rows = usage(Ledger(RECORDS), Question(by=("day", "user"))).rows
    assert rows == {
        ("2026-05-31", "ann"): 8 * 3_600_000,
        ("2026-06-01", "ann"): 8 * 1_800_001,
        ("2026-06-01", "bob"): 2 + 8 * 60_000,
    }


def test_what_runs_is_counted_as_far_as_it_is_stored() -> None:
    answer = usage(Ledger(RECORDS), Question())
    assert (answer.open_intervals, answer.as_of_ms) == (1, JUNE_MS + 60_000)
    ended = usage(Ledger(RECORDS), Question(only={"job": "a"}))
    assert (ended.open_intervals, ended.as_of_ms) == (0, None)


def test_refunds_are_apart_and_follow_the_filters() -> None:
    ledger = Ledger(RECORDS)
    assert usage(ledger, Question()).refunds == {"webvision": 1000}
    assert usage(ledger, Question(only={"user": "ann"})).refunds == {"webvision": 1000}
    assert usage(ledger, Question(only={"user": "bob"})).refunds == {}
    assert usage(ledger, Question(only={"budget": "other"})).refunds == {}
    assert usage(ledger, Question(begin_ms=JUNE_MS + 1)).refunds == {}


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for key in list(os.environ):
        if key.startswith(("LAUNCHER_", "XDG_")):
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = (tmp_path / "ledger").as_uri()
    LedgerStore(open_store(found), "default").append(RECORDS, JUNE_MS)
    return found


def test_csv_is_exact(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["usage", "--ledger", address, "--by", "job,user", "-o", "csv"]) == 0
    captured = capsys.readouterr()
    rows = list(csv.reader(StringIO(captured.out)))
    assert [row[:3] for row in rows] == [
        ["job", "user", "gpu_ms"],
        ["a", "ann", str(8 * 5_400_001)],
        ["b", "bob", str(2 + 8 * 60_000)],
    ]
    assert [round(float(row[3]) * DAY_MS) for row in rows[1:]] == [8 * 5_400_001, 480_002]
    assert "1 pods still run" in captured.err
    assert "2026-06-01T00:01:00.000Z" in captured.err


def test_json_is_exact(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_LEDGER", address)
    assert run(["usage", "--since", "2026-06-01", "--budget", "webvision", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["job"], row["gpu_ms"]) for row in found["rows"]] == [
        ("a", 8 * 1_800_001), ("b", 480_002)
    ]  # fmt: skip
    assert found["total"]["gpu_ms"] == 8 * 1_800_001 + 480_002
    assert found["refunds"] == [{"budget": "webvision", "gpu_ms": 1000, "gpu_days": 1000 / DAY_MS}]
    assert (found["open_intervals"], found["as_of"]) == (1, "2026-06-01T00:01:00.000Z")


def test_the_table_ends_with_the_total(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["usage", "--ledger", address]) == 0
    captured = capsys.readouterr()
    lines = [line.split() for line in captured.out.splitlines()]
    assert lines == [["JOB", "GPU-DAYS"], ["a", "0.500"], ["b", "0.006"], ["total", "0.506"]]
    assert "were given back" in captured.err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--by", "colour"], 2, ("'colour'", "budget, job")),
        (["--by", "job,job"], 2, ("job,job", "twice")),
        (["--since", "soon"], 2, ("--since 'soon'", "2026-06-01")),
        (["--since", "2026-06-02", "--until", "2026-06-01"], 2, ("not after", "2026-06-02")),
        (["--cluster", "other"], 3, ("no record", "--cluster other")),
    ],
)
def test_what_is_refused(
    address: str, capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: Any
) -> None:
    assert run(["usage", "--ledger", address, *words]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    for word in told:
        assert word in captured.err


def test_without_a_ledger(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert address
    assert run(["usage"]) == 2
    assert "launcher config set ledger" in capsys.readouterr().err
