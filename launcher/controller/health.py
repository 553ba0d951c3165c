"""What the kubelet asks, and a few counters, over HTTP."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Counters:
    """What was done so far, by reason, and how it stands now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}

    def count(self, reason: str) -> None:
        with self._lock:
            self._done[reason] += 1

    def text(self) -> str:
        """In Prometheus' text format."""
        with self._lock:
            done, gauges = sorted(self._done.items()), sorted(self.gauges.items())
        lines = ["# TYPE launcher_controller_actions_total counter"]
        lines += [f'launcher_controller_actions_total{{reason="{k}"}} {v}' for k, v in done]
        for name, value in gauges:
            lines += [f"# TYPE launcher_controller_{name} gauge"]
            lines += [f"launcher_controller_{name} {value:g}"]
        return "\n".join(lines) + "\n"


Answer = Callable[[], tuple[int, str]]


@contextlib.contextmanager
def serve(port: int, pages: dict[str, Answer]) -> Iterator[int]:
    """Answers these paths on all addresses; yields the port, which 0 leaves to the system."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            code, text = pages.get(self.path, lambda: (404, "there is nothing here\n"))()
            body = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes come every few seconds; they are no news."""

    server = ThreadingHTTPServer(("", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="health", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
