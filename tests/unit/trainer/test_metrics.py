"""What rank 0 tells: lines, the endpoint, and a store that fails."""

from __future__ import annotations

import json
import logging
import urllib.request
from pathlib import Path

import pytest

from trainer.metrics import METRICS_KEY, TABLE, Endpoint, Lines, log_line
from trainer.report import elastic_sizes
from trainer.storage import open_store


def test_the_log_line_reads_as_the_style_says() -> None:
    values = {"loss": 3.2141, "top1": 0.4123, "lr": 0.087, "samples_per_s": 512.4}
    assert log_line(1_280_000, 12_800_000, values, 4) == (
        "seen 1,280,000/12,800,000  loss 3.214  top1 0.412  lr 0.0870  512 img/s  4 workers"
    )
    assert log_line(1, 2, values, 1).endswith("  1 worker")


def test_lines_go_on_where_an_earlier_generation_stood(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    first = Lines(store, 1, clock=lambda: 10.0)
    first.add("start", update=0)
    first.add("train", update=7, loss=1.5)
    first.flush()
    second = Lines(store, 2)
    assert second.last_update() == 7
    second.add("start", update=4)
    second.flush()
    lines = [json.loads(line) for line in (tmp_path / METRICS_KEY).read_text().splitlines()]
    assert [(x["event"], x["generation"], x["update"]) for x in lines] == [
        ("start", 1, 0),
        ("train", 1, 7),
        ("start", 2, 4),
    ]
    assert lines[0]["at"] == 10.0


def test_what_is_not_finite_is_null_in_every_line(tmp_path: Path) -> None:
    lines = Lines(open_store(str(tmp_path)), 1)
    lines.add("evaluate", update=3, loss=float("nan"), top1=0.5, grad_norm=float("inf"))
    lines.flush()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    line = json.loads((tmp_path / METRICS_KEY).read_text(), parse_constant=refuse)
    assert (line["loss"], line["top1"], line["grad_norm"]) == (None, 0.5, None)


def test_a_torn_last_line_is_kept_apart(tmp_path: Path) -> None:
    (tmp_path / METRICS_KEY).write_text('{"event": "train", "update": 3}\n{"ev')
    lines = Lines(open_store(str(tmp_path)), 2)
    assert lines.last_update() == 3
    lines.add("start", update=3)
    assert lines.text.splitlines()[-1].startswith('{"event": "start"')


def test_a_store_that_fails_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(open_store(str(tmp_path / "a")), 1)
    (tmp_path / "a").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        lines.add("start", update=0)
        lines.flush()
    assert "metrics not stored now" in caplog.text
    (tmp_path / "a").unlink()
    lines.flush()
    assert (tmp_path / "a" / METRICS_KEY).exists()


def test_the_endpoint_speaks_prometheus() -> None:
    endpoint = Endpoint("senet154-a1")
    endpoint.set(samples_total=1280, loss=3.5)
    port = endpoint.serve(0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert 'trainer_samples_total{training_job="senet154-a1"} 1280.0' in text
    assert "# TYPE trainer_samples_total counter" in text
    assert "# TYPE trainer_loss gauge" in text
    taken = Endpoint("other").serve(port)
    assert taken != port


def test_durations_of_updates_make_a_histogram() -> None:
    endpoint = Endpoint("a")
    for elapsed_s in (0.04, 0.05, 0.3, 1000.0):
        endpoint.observe_update(elapsed_s)
    (metric,) = endpoint.collect()
    found = {
        (sample.name.removeprefix("trainer_update_duration_seconds"), sample.labels.get("le")): (
            sample.value
        )
        for sample in metric.samples
    }
    assert found["_bucket", "0.05"] == 2
    assert found["_bucket", "0.2"] == 2
    assert found["_bucket", "0.5"] == 3
    assert found["_bucket", "60.0"] == 3
    assert found["_bucket", "+Inf"] == found["_count", None] == 4
    assert found["_sum", None] == pytest.approx(1000.39)


def test_a_resume_knows_when_the_last_line_was_written(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert Lines(store, 1).last_at() is None
    store.put(METRICS_KEY, b'{"event": "train", "at": 12.5}\n{"event": "tra')
    assert Lines(store, 2).last_at() == 12.5


@pytest.mark.parametrize(
    ("nnodes", "sizes"), [("2:4", (4, 8)), ("3", (6, 6)), ("", None), ("a:b", None)]
)
def test_the_elastic_range_counts_ranks(nnodes: str, sizes: tuple[int, int] | None) -> None:
    assert elastic_sizes({"PET_NNODES": nnodes, "PET_NPROC_PER_NODE": "2"}) == sizes


def test_names_follow_prometheus_and_helps_give_units() -> None:
    for name, (kind, text) in TABLE.items():
        assert name.startswith("trainer_")
        assert name.endswith("_total") == (kind == "counter")
        assert text.endswith(".")
        if "seconds" in name and "timestamp" not in name and "per_second" not in name:
            assert "(in s)" in text
    with pytest.raises(KeyError):
        Endpoint("a").set(unknown=1)
