"""Prometheus and Alertmanager on loopback, for tests and for the pictures of the dashboards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "charts/launcher/rules"

GENERATED = "generated"
"""The scrape's job of series that nobody measured."""
START_S = 30.0
"""A start takes half a second; this is for a machine under load."""


class Unavailable(Exception):
    """A program is not installed."""


class Refused(Exception):
    """Prometheus did not take a query."""


def program(*names: str) -> str:
    """The path of the first that is there; Debian calls Alertmanager prometheus-alertmanager."""
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    raise Unavailable(f"no program `{names[0]}`; install Debian's prometheus-alertmanager"
                      " and prometheus")  # fmt: skip


def rules(folder: Path, interval_s: float) -> Path:
    """Copies the rules, evaluated at another interval than in production. Returns the glob."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in RULES.glob("*.yaml"):
        document = yaml.safe_load(path.read_text())
        for group in document["groups"]:
            group["interval"] = f"{round(interval_s * 1000)}ms"
        (folder / path.name).write_text(yaml.safe_dump(document))
    return folder / "*.yaml"


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, ready: str) -> Iterator[None]:
    """A process that answers at the address `ready`, ended with SIGKILL: its data are not kept."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=_quiet(), start_new_session=True
        )
    try:
        ends_at = time.monotonic() + START_S
        while not _answers(ready):
            if process.poll() is not None or time.monotonic() > ends_at:
                text = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{command[0]} did not start: {text}")
            time.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def served(
    get: Callable[[], str], post: Callable[[str, bytes], None] | None = None
) -> Iterator[int]:
    """Answers each GET on loopback with the text, and hands each POST on with its path. Yields
    the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = get().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if post is not None:
                post(self.path, body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Scrapes come every second; they are no news."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def prometheus(
    folder: Path,
    port: int,
    *,
    targets: Mapping[str, str] | None = None,
    rule_files: Path | None = None,
    alertmanager: str = "",
    every_s: float = 1.0,
) -> Iterator[Prometheus]:
    """A server over the folder's blocks, which scrapes and evaluates as told.

    targets: host:port by the name of the scrape's job; what GENERATED gives goes on with the series
    of the blocks, so it gets no labels of the scrape. alertmanager: host:port.
    """
    scrapes = [
        {
            "job_name": name,
            "static_configs": [{"targets": [target]}],
            "metric_relabel_configs": [{"action": "labeldrop", "regex": "instance|job"}]
            if name == GENERATED
            else [],
        }
        for name, target in (targets or {}).items()
    ]
    config: dict[str, Any] = {
        "global": {"scrape_interval": f"{round(every_s * 1000)}ms"},
        "scrape_configs": scrapes,
    }
    if rule_files is not None:
        config["rule_files"] = [str(rule_files)]
    if alertmanager:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    address = f"http://127.0.0.1:{port}"
    command = [
        program("prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=400d",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with running(command, folder / "prometheus.log", f"{address}/-/ready"):
        yield Prometheus(address)


@contextlib.contextmanager
def alertmanager(folder: Path, port: int, config: Path) -> Iterator[str]:
    """Alertmanager with that configuration; yields its host:port."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        program("prometheus-alertmanager", "alertmanager"),
        f"--config.file={config}",
        f"--storage.path={folder / 'alerts'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    ready = f"http://127.0.0.1:{port}/-/ready"
    with running(command, folder / "alertmanager.log", ready):
        yield f"127.0.0.1:{port}"


class Prometheus:
    """The HTTP API of a server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **parameters: Any) -> Any:
        """The data of an answer. Raises Refused with Prometheus' words."""
        words = urllib.parse.urlencode(
            {name: value for name, value in parameters.items() if value is not None}, doseq=True
        )
        try:
            with urllib.request.urlopen(f"{self.address}{path}?{words}", timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            raise Refused(text[:500]) from error

    def instant(self, expr: str, at: float) -> list[dict[str, Any]]:
        """Series of an instant query at that Unix time; each has `metric` and `value`."""
        found: list[dict[str, Any]] = self.get("/api/v1/query", query=expr, time=at)["result"]
        return found

    def over(self, expr: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """Series of a range query; each has `metric` and `values`."""
        answer = self.get("/api/v1/query_range", query=expr, start=start, end=end, step=step_s)
        found: list[dict[str, Any]] = answer["result"]
        return found


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def _quiet() -> dict[str, str]:
    return {**os.environ, "GOMEMLIMIT": "600MiB"}
