"""An HTTP server that fails as its script says, one step a request, and records what it was asked.

It knows nothing of Kubernetes: semantics are tested on the real API server, faults here.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Step = Callable[[socket.socket], None]
"""Answers one request on its connection, or fails to."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    """What its JSON holds; None without a body."""
    at: float
    """time.monotonic()."""


class ScriptedServer(socketserver.ThreadingTCPServer):
    """Serves on a port of loopback. A request beyond the script gets 418."""

    daemon_threads = True

    def __init__(self) -> None:
        self.script: list[Step] = []
        self.asked: list[Asked] = []
        self.deaf = 0
        """So many connections are reset before anything is read from them."""
        self.ending = threading.Event()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Connection)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def shutdown_request(self, request: Any) -> None:
        """Closes without a farewell, which would turn a reset into an end."""
        self.close_request(request)

    def next_step(self, asked: Asked) -> Step:
        with self._lock:
            self.asked.append(asked)
            return self.script.pop(0) if self.script else reply(418, {"message": "script is over"})

    def is_deaf(self) -> bool:
        with self._lock:
            self.deaf -= 1
            return self.deaf >= 0

    def write_kubeconfig(self, path: Path) -> Path:
        """A kubeconfig whose only context is this server and the namespace "ml"."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "scripted",
            "clusters": [{"name": "s", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "let-me-in"}}],
            "contexts": [
                {"name": "scripted", "context": {"cluster": "s", "user": "u", "namespace": "ml"}}
            ],
        }
        path.write_text(json.dumps(config))
        return path


class _Connection(socketserver.StreamRequestHandler):
    server: ScriptedServer

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            if self.server.is_deaf():
                reset(self.connection)
            while line := self.rfile.readline():
                method, target, _ = line.decode().split()
                headers = {}
                while (entry := self.rfile.readline().decode().strip()) != "":
                    name, _, value = entry.partition(":")
                    headers[name.strip().lower()] = value.strip()
                text = self.rfile.read(int(headers.get("content-length", 0)))
                parts = urlsplit(target)
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                body = json.loads(text) if text else None
                asked = Asked(method, parts.path, query, headers, body, time.monotonic())
                self.server.next_step(asked)(self.connection)


def reply(status: int, body: object, headers: dict[str, str] | None = None) -> Step:
    """A whole answer. body: JSON of it, or text as it is."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    return _send(_head(status, {"Content-Length": str(len(data))} | (headers or {})) + data)


def status(code: int, reason: str, message: str = "", **headers: str) -> Step:
    """A failure as API servers word it; a header's name has _ for -."""
    told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return reply(code, told | {"reason": reason, "message": message or reason}, named)


def truncated(body: object) -> Step:
    """An answer that ends in mid-body."""
    data = json.dumps(body).encode()
    head = _head(200, {"Content-Length": str(len(data))})
    return _then(_send(head + data[: len(data) // 2]), reset)


def reset(connection: socket.socket) -> None:
    """The connection ends by RST: what was asked may have been done."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionResetError


def hang(server: ScriptedServer) -> Step:
    """Nothing more comes until the server is closed."""

    def wait(connection: socket.socket) -> None:
        server.ending.wait()

    return wait


def stream(*events: object, cut: bytes = b"", end: Step | None = None) -> Step:
    """A watch's answer: a chunk for each event, then part of one, then its end (default: clean)."""
    lines = [json.dumps(event).encode() + b"\n" for event in events] + ([cut] if cut else [])
    chunks = b"".join(f"{len(line):x}\r\n".encode() + line + b"\r\n" for line in lines)
    start = _send(_head(200, {"Transfer-Encoding": "chunked"}) + chunks)
    return _then(start, end or _send(b"0\r\n\r\n"))


def _head(code: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {code} Scripted", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _send(data: bytes) -> Step:
    return lambda connection: connection.sendall(data)


def _then(*steps: Step) -> Step:
    def both(connection: socket.socket) -> None:
        for step in steps:
            step(connection)

    return both


@contextlib.contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """A running server."""
    with ScriptedServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.ending.set()
            server.shutdown()
            thread.join()
