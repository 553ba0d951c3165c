"""Draws each dashboard with Grafana's own UI library in headless Chromium: make dashboard-pictures.

A real run of the demo's data is scraped meanwhile; what else the panels show is generated (see
history.py). Needs Debian's prometheus, chromium and npm. Takes minutes and is no part of CI.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tests.servers import BUCKET, free_ports, s3_server
from tools.dashboards import budget, training
from tools.dashboards.__main__ import BOARDS, FOLDER
from tools.dashboards.live import SCRAPE_S, Training, watched
from tools.dashboards.live import training as submitted
from tools.dashboards.queries import Answer, Span, choose, run
from tools.dashboards.server import ROOT, Prometheus, program

DRAW = Path(__file__).with_name("draw")
PICTURES = ROOT / "docs/pictures"
JOB = "digits-demo"
WIDTH_PX = 1600
COLUMN_PX, ROW_PX, TOP_PX = 66, 36, 56
"""As in page.tsx."""
MOST_BYTES = 400_000


def main() -> int:
    """Draws all of them; 1 where a panel that should show something does not."""
    bundle()
    with tempfile.TemporaryDirectory(prefix="dashboards-") as name:
        folder = Path(name)
        return 1 if list(drawn(folder)) else 0


def bundle() -> None:
    """Installs the locked packages where they are absent, and bundles the page."""
    if not (DRAW / "node_modules").exists():
        command = ["npm", "ci", "--legacy-peer-deps", "--ignore-scripts", "--no-audit"]
        subprocess.run(command, cwd=DRAW, check=True)
    subprocess.run(
        [
            *("node", "node_modules/esbuild/bin/esbuild", "page.tsx", "--bundle"),
            *("--outfile=../../../build/draw/page.js", "--jsx=transform", "--minify"),
            *(
                "--loader:.svg=dataurl",
                "--loader:.ttf=dataurl",
                "--loader:.woff2=dataurl",
                '--define:process.env.NODE_ENV="production"',
            ),
            "--alias:react-custom-scrollbars-2=./scrollbars.js",
            "--log-level=error",
        ],
        cwd=DRAW,
        check=True,
    )


def drawn(folder: Path) -> Iterator[str]:
    """Draws each dashboard; yields the panels that are empty without a reason."""
    with s3_server(folder / "s3") as s3:
        port, *others = free_ports(3)
        run_ = Training(JOB, folder, f"s3://{BUCKET}/demo", port, 60, s3.environment())
        run_.pack()
        with submitted(run_), watched(folder / "p", 30, run_, (others[0], others[1])) as server:
            live(run_)
            began, end = run_.lines()[0]["at"] - 5, time.time()
            for board in BOARDS:
                document = json.loads((FOLDER / f"{board.uid}.json").read_text())
                back_s = {training.UID: end - began, budget.UID: 30 * 86400}.get(board.uid, 7200)
                span = Span(end - back_s, end, 4 * SCRAPE_S if back_s < 3600 else 60)
                chosen = choose(server, document, span)
                if board.uid == training.UID:
                    chosen["training_job"] = JOB
                if board.uid == budget.UID:
                    chosen["budget"] = "webvision"
                excused = {panel.title for panel in board.panels if panel.empty}
                yield from draw(server, document, span, chosen, excused)


def live(run_: Training) -> None:
    """Lets it train, lose a worker, and grow."""
    for evaluations, change in ((8, run_.kill_worker), (18, lambda: run_.scale(3))):
        run_.wait_for("evaluate", evaluations, timeout_s=300)
        change()
    run_.wait_for("evaluate", 40, timeout_s=300)


def draw(
    server: Prometheus,
    board: Mapping[str, Any],
    span: Span,
    chosen: Mapping[str, str],
    excused: set[str],
) -> Iterator[str]:
    """One picture of one dashboard; yields what is wrong."""
    answers: dict[int, dict[str, Any]] = {}
    for answer in run(server, board, span, chosen):
        shown = answers.setdefault(answer.panel["id"], {"series": [], "queries": []})
        shown["queries"].append(answer)
        shown["series"] += [series(answer, each, span) for each in answer.series]
    for panel in board["panels"]:
        if panel["type"] == "table":
            answers[panel["id"]]["columns"] = columns(panel, answers[panel["id"]]["queries"])
    for shown in answers.values():
        del shown["queries"]
    told = {"board": board, "answers": answers, "span": {"start": span.start, "end": span.end}}
    data = json.dumps(told).replace("</", "<\\/")
    page = ROOT / "build/draw" / f"{board['uid']}.html"
    page.write_text(
        "<!doctype html><meta charset=utf-8><link rel=stylesheet href=page.css>"
        "<body style='margin:0'><div id=root></div>"
        f"<script>window.DRAWN={data}</script>"
        "<script src=page.js></script>"
    )
    rows = max(at["gridPos"]["y"] + at["gridPos"]["h"] for at in board["panels"])
    picture = PICTURES / f"{board['uid']}.png"
    states = shot(page, picture, TOP_PX + rows * ROW_PX + 8)
    print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size:,} bytes, {len(states)} panels")
    for title, state in states.items():
        if state != "ok" and title not in excused:
            print(f"  {title}: {state}", file=sys.stderr)
            yield title
    if len(states) != sum(panel["type"] != "row" for panel in board["panels"]):
        yield "panels are missing"


def series(answer: Answer, found: Mapping[str, Any], span: Span) -> dict[str, Any]:
    """A series with its name; a graph gets a null where Prometheus has nothing."""
    legend = answer.target.get("legendFormat", "")
    name = re.sub(r"\{\{(\w+)\}\}", lambda label: found["metric"].get(label[1], ""), legend)
    if "value" in found:
        times, values = [found["value"][0]], [number(found["value"][1])]
    else:
        told = {float(at): number(value) for at, value in found["values"]}
        start = span.start - span.start % span.step_s
        count = int((span.end - start) / span.step_s) + 1
        times = [start + index * span.step_s for index in range(count)]
        near = {round(at, 2): value for at, value in told.items()}
        values = [near.get(round(at, 2)) for at in times]
    return {"name": name, "refId": answer.target["refId"], "times": times, "values": values}


def number(text: str) -> float | None:
    value = float(text)
    return value if value == value and abs(value) != float("inf") else None


def columns(panel: Mapping[str, Any], answers: list[Answer]) -> list[dict[str, Any]]:
    """What Grafana's transformations make of the answers: a row for each job."""
    organized = panel["transformations"][2]["options"]
    order, names = organized["indexByName"], organized["renameByName"]
    field = panel["transformations"][0]["options"]["byField"]
    rows: dict[str, dict[str, Any]] = {}
    for answer in answers:
        for found in answer.series:
            row = rows.setdefault(found["metric"].get(field, ""), {})
            row |= {key: value for key, value in found["metric"].items() if key in names}
            row[f"Value #{answer.target['refId']}"] = number(found["value"][1])
    first = "Value #A"
    ordered = sorted(rows.values(), key=lambda row: -(row.get(first) or 0))
    return [
        {
            "name": shown,
            "isText": not key.startswith("Value #"),
            "values": [row.get(key) for row in ordered],
        }
        for key, shown in sorted(names.items(), key=lambda each: order[each[0]])
    ]


def shot(page: Path, picture: Path, height_px: int) -> dict[str, str]:
    """Takes the picture, and gives the state of each panel by its title."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    chromium = [
        *(program("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu"),
        *("--hide-scrollbars", "--allow-file-access-from-files", "--virtual-time-budget=15000"),
        f"--window-size={WIDTH_PX},{height_px}",
    ]
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        chromium.append(f"--user-data-dir={profile}")
        raw = page.with_suffix(".png")
        for wanted in ([f"--screenshot={raw}"], ["--dump-dom"]):
            done = subprocess.run(
                [*chromium, *wanted, page.as_uri()], check=True, capture_output=True, timeout=120
            )
    text = done.stdout.decode(errors="replace")
    with Image.open(raw) as image:
        image.convert("RGB").quantize(colors=128).save(picture, optimize=True)
    assert picture.stat().st_size < MOST_BYTES, f"{picture} is too large"
    found = re.findall(r'data-panel="([^"]*)" data-state="([^"]*)"', text)
    return {html.unescape(title): state for title, state in found}


if __name__ == "__main__":
    assert shutil.which("node"), "no program `node`; install Debian's nodejs and npm"
    sys.exit(main())
