"""A real control plane on this machine: etcd, API server, controller manager, scheduler.

All of it listens on loopback or on ports of its own, keeps its data in one folder, and ends with
`stop`, whichever part has died before.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.tools import ensure, kubectl
from tests.servers import free_ports

READY_S = 90.0
"""It takes 3 s on a quiet machine."""
STOP_S = 10.0
SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/16"


class NotReady(Exception):
    """A part did not come up; the end of its log tells why."""


@dataclass
class Part:
    """One process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]


@dataclass
class ControlPlane:
    """The processes of a control plane in a folder."""

    folder: Path
    address: str = "127.0.0.1"
    """Where others reach the API server; a node's pods need one that is not loopback."""
    parts: dict[str, Part] = field(default_factory=dict)
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.etcd_port, self.etcd_peer_port, self.port = free_ports(3)

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def ca(self) -> Path:
        return self.folder / "pki" / "apiserver.crt"

    def start(self) -> None:
        """Returns when the API server is ready. Raises NotReady or tools.Unavailable."""
        names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
        self.programs = ensure(names)
        self.client = kubectl()
        self._write_keys()
        self.start_etcd()
        self.start_apiserver()
        self._write_kubeconfig()
        self.launch(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--root-ca-file={self.ca}",
            f"--service-account-private-key-file={self.folder}/sa.key",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--allocate-node-cidrs",
            f"--cluster-cidr={PODS}",
            "--secure-port=0",
        )
        self.launch(
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
        )

    def start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{p}" for p in (self.etcd_port, self.etcd_peer_port))
        self.launch(
            "etcd",
            f"--data-dir={self.folder}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )

    def start_apiserver(self) -> None:
        self.launch(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--secure-port={self.port}",
            "--bind-address=0.0.0.0",
            f"--advertise-address={self.address}",
            f"--cert-dir={self.folder}/pki",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged",
            f"--service-cluster-ip-range={SERVICES}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder}/sa.pub",
            f"--service-account-signing-key-file={self.folder}/sa.key",
            "--kubelet-preferred-address-types=InternalIP",
        )
        self.wait_for("kube-apiserver", "/readyz")

    def wait_for(self, name: str, path: str) -> None:
        """Waits until the API server answers the path with 200."""
        context = ssl.create_default_context()
        context.check_hostname = False
        ends_at = time.monotonic() + READY_S
        while time.monotonic() < ends_at:
            if self.parts[name].process.poll() is not None:
                raise NotReady(f"{name} ended: {self.parts[name].tail()}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                context.load_verify_locations(self.ca)
                request = urllib.request.Request(
                    f"{self.server}{path}", headers={"Authorization": f"Bearer {self.token}"}
                )
                with urllib.request.urlopen(request, timeout=5, context=context):
                    return
            time.sleep(0.1)
        raise NotReady(f"{name} is not ready after {READY_S:.0f} s: {self.parts[name].tail()}")

    def launch(self, name: str, *flags: str) -> None:
        """Starts a part."""
        self.run(name, (str(self.programs[name]), *flags))

    def run(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Starts a process that is ended with the others, in a session of its own."""
        log = self.folder / f"{name}.log"
        with open(log, "ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | (env or {}),
                start_new_session=True,
            )
        self.parts[name] = Part(name, process, log)

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl as the cluster's administrator prints. Raises CalledProcessError."""
        return subprocess.run(
            [str(self.client), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=given,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Creates or changes objects."""
        self.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(objects))

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends one part."""
        part = self.parts.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(part.process.pid, number)
        part.process.wait(STOP_S)

    def stop(self) -> None:
        """Ends all parts, the API server before what it stores in."""
        for name in reversed(list(self.parts)):
            self.kill(name)

    def _write_keys(self) -> None:
        key = self.folder / "sa.key"
        for command in (
            ["openssl", "genrsa", "-out", str(key), "2048"],
            ["openssl", "rsa", "-in", str(key), "-pubout", "-out", f"{self.folder}/sa.pub"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        tokens = self.folder / "tokens.csv"
        tokens.touch(0o600)
        tokens.write_text(f'{self.token},admin,admin,"system:masters"\n')

    def _write_kubeconfig(self) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": self.server, "certificate-authority": str(self.ca)},
                }
            ],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }
        self.kubeconfig.touch(0o600)
        self.kubeconfig.write_text(yaml.safe_dump(config))


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """A running control plane."""
    plane = ControlPlane(folder)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
