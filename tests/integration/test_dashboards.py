"""The dashboards: their JSON, and every query of every panel on a real Prometheus.

The trainer's series come from a real run on this machine. What that machine has not (GPUs,
kube-state-metrics, Kueue, a month of use) is generated and marked so: tools/dashboards/history.py.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import absent
from tests.raws import picture, write_dataset
from tests.servers import BUCKET, S3Server, free_ports
from tools.dashboards.__main__ import BOARDS, FOLDER, files
from tools.dashboards.live import SCRAPE_S, Training, training, watched
from tools.dashboards.panels import Board
from tools.dashboards.queries import Answer, Span, choose, metrics, panels, run
from tools.dashboards.server import RULES, Prometheus, Unavailable, program
from trainer.metrics import TABLE

DOCUMENTS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
FOREIGN = ("kube_", "kueue_", "DCGM_FI_")
"""Metrics of others."""


@pytest.fixture(params=BOARDS, ids=lambda board: board.uid)
def board(request: pytest.FixtureRequest) -> Board:
    found: Board = request.param
    return found


def document(board: Board) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENTS[board.uid]
    return found


# -- the JSON


def test_making_them_anew_changes_nothing() -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert kept == files(), "run make dashboards"


def test_uids_are_unique_and_nothing_belongs_to_one_server(board: Board) -> None:
    assert len({each.uid for each in BOARDS}) == len(BOARDS)
    made = document(board)
    assert made["uid"] == board.uid
    assert made["id"] is None
    text = json.dumps(made)
    assert set(re.findall(r'"uid": "([^"]+)"', text)) == {board.uid, "${datasource}"}
    assert len(text.encode()) < 1 << 20, "a ConfigMap holds no more"


def test_panels_do_not_overlap_and_leave_no_hole(board: Board) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in document(board)["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in document(board)["panels"]]
    assert len(numbers) == len(set(numbers))


def test_every_panel_tells_what_it_shows(board: Board) -> None:
    titles = [panel["title"] for panel in panels(document(board))]
    assert len(titles) == len(set(titles))
    for panel in panels(document(board)):
        assert panel["description"].endswith(".") or panel["description"].endswith("?")
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"]
        assert defaults["noValue"]
        assert defaults["thresholds"]["steps"]


def test_they_lead_to_each_other(board: Board) -> None:
    told = {link["url"] for link in document(board)["links"]}
    assert told == {f"/d/{other.uid}" for other in BOARDS if other.uid != board.uid}


# -- the metrics


def controllers_metrics() -> set[str]:
    """Names in the controller's metric table."""
    if importlib.util.find_spec("launcher.controller.metric_table") is None:
        pytest.skip("this version of the controller has no table of metrics")
    from launcher.controller import metric_table  # type: ignore[attr-defined]

    text = Path(metric_table.__file__).read_text(encoding="utf-8")
    return set(re.findall(r'"(launcher_[a-z_]+)"', text))


def used() -> dict[str, set[str]]:
    """Every metric that a rule or a dashboard reads, with the place."""
    places: dict[str, set[str]] = {}

    def note(place: str, expr: str) -> None:
        for name in metrics(re.sub(r"\$__\w+", "1m", expr)):
            places.setdefault(name, set()).add(place)

    for path in RULES.glob("*.yaml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                note(rule.get("record") or rule["alert"], rule["expr"])
    for uid, made in DOCUMENTS.items():
        for panel in panels(made):
            for target in panel["targets"]:
                note(f"{uid}: {panel['title']}", target["expr"])
        for annotation in made["annotations"].get("list", ()):
            note(uid, annotation.get("expr", ""))
    return places


def recorded_series() -> set[str]:
    return {
        rule["record"]
        for path in RULES.glob("*.yaml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }


def test_names_of_metrics_are_found_in_expressions() -> None:
    expr = (
        'sum by (a, b) (rate(x_total{y="z(1)", w=~"q"}[5m])) / on (c) group_left (d) (v:w:u > 0)'
        ' unless topk(3, label_replace(p_q, "s", "$1", "t", "(.+)")) offset 5m'
    )
    assert metrics(expr) == {"x_total", "v:w:u", "p_q"}


HISTOGRAM = ("_bucket", "_sum", "_count")


def test_every_metric_of_the_trainer_is_used_and_every_used_one_is_told() -> None:
    named = {name for name in used() if name.startswith("trainer_")}
    plain = {name.removesuffix("_bucket") if name.endswith("_bucket") else name for name in named}
    assert plain == set(TABLE)


def test_every_metric_of_the_controller_is_used_and_every_used_one_is_told() -> None:
    named = {name for name in used() if name.startswith("launcher_")}
    told = controllers_metrics()
    assert named - told == set(), "no such metric"
    assert told - named == set(), "nobody looks at it"


def test_everything_else_is_recorded_or_somebody_s_own() -> None:
    for name, places in used().items():
        known = name.startswith(("trainer_", "launcher_", *FOREIGN)) or name in recorded_series()
        assert known, (name, places)


def test_every_recorded_series_is_looked_at() -> None:
    assert recorded_series() - set(used()) == set()


# -- the queries, on a real Prometheus


@pytest.fixture(scope="module")
def server(
    s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Prometheus, Span]]:
    """Prometheus that has watched a real run lose a worker and go on."""
    try:
        program("prometheus")
        program("promtool")
    except Unavailable as error:
        absent(str(error))
    folder = tmp_path_factory.mktemp("dashboards")
    port, *others = free_ports(3)
    shards = f"s3://{BUCKET}/dashboards-{port}"
    options = ("evaluate.every_epochs=2", "checkpoint.every_epochs=1")
    job = Training("small", folder, shards, port, 4000, s3.environment(), options)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        pictures = [picture(number) for number in range(480)]
        write_dataset(f"{shards}/train", [*pictures[1:], b"no picture"])
        write_dataset(f"{shards}/val", pictures[:48])
    began = time.time()
    with (
        training(job),
        watched(folder / "prometheus", 8, job, (others[0], others[1])) as prometheus,
    ):
        job.wait_for("evaluate", 1)
        job.kill_worker()
        job.wait_for("start", 2)
        job.wait_for("evaluate", 3)
        time.sleep(4 * SCRAPE_S)
        yield prometheus, Span(began, time.time(), SCRAPE_S)


@pytest.fixture
def answers(board: Board, server: tuple[Prometheus, Span]) -> list[Answer]:
    prometheus, span = server
    # Five minutes are the least that Grafana offers; sums over the range go minute by minute.
    back_s = {"launcher-gpu-budget": 7 * 86400}.get(board.uid, 300)
    span = Span(span.end - back_s, span.end, span.scrape_s)
    chosen = choose(prometheus, document(board), span)
    return list(run(prometheus, document(board), span, chosen))


def test_every_query_gives_series_or_may_be_empty(board: Board, answers: list[Answer]) -> None:
    assert len(answers) == sum(len(panel.queries) for panel in board.panels)
    assert [f"{answer.where}: {answer.error}" for answer in answers if answer.error] == []
    excused = {panel.title for panel in board.panels if panel.empty}
    empty = {answer.where for answer in answers if not answer.series}
    assert [where for where in sorted(empty) if where.rsplit(" ", 1)[0] not in excused] == []


def test_legends_name_labels_that_are_there(answers: list[Answer]) -> None:
    for answer in answers:
        for label in re.findall(r"\{\{(\w+)\}\}", answer.target.get("legendFormat", "")):
            assert all(label in series["metric"] for series in answer.series), answer.where


def test_a_real_trainer_told_most_of_the_first_dashboard(
    server: tuple[Prometheus, Span],
) -> None:
    prometheus, span = server
    found = prometheus.instant('count by (__name__) ({job="trainer"})', span.end)
    names = {series["metric"]["__name__"] for series in found}
    told = {name for name in TABLE if name in names or f"{name}_bucket" in names}
    self_label = {"trainer_label_agreement_ratio", "trainer_prediction_spread_ratio"}
    assert set(TABLE) - told == {"trainer_gpu_memory_bytes", *self_label}, "no GPU, another loss"
    (recovery,) = prometheus.instant("trainer_recovery_seconds", span.end)
    assert 0 < float(recovery["value"][1]) < 120


def test_promtool_finds_no_fault_in_what_the_trainer_tells(
    server: tuple[Prometheus, Span],
) -> None:
    prometheus, span = server
    (up,) = prometheus.instant('up{job="trainer"} == 1', span.end)
    with urllib.request.urlopen(f"http://{up['metric']['instance']}/metrics", timeout=10) as page:
        text = page.read()
    command = [program("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr.decode()) == (0, "")
