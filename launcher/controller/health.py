"""What the kubelet and Prometheus ask over HTTP, and a count of what was done."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Counters:
    """What was done so far, by reason."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: Counter[str] = Counter()

    def count(self, reason: str) -> None:
        with self._lock:
            self._done[reason] += 1

    def by_reason(self) -> dict[str, int]:
        with self._lock:
            return dict(sorted(self._done.items()))


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
