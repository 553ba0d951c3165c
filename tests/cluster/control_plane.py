"""A real control plane on this machine: etcd, API server, controller manager, scheduler.

All of it listens on loopback or on ports of its own, keeps its data in one folder, and ends with
`stop`, whichever part has died before.
"""

from __future__ import annotations

import contextlib
import ipaddress
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

from tests.cluster.certificates import make_authority, sign
from tests.cluster.network import Network
from tests.cluster.parts import NotReady, Part, end_all, launch, wait_until_gone
from tests.cluster.tools import ensure, kubectl
from tests.servers import free_ports

READY_S = 90.0
"""It takes 3 s on a quiet machine."""
SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/16"
USERS = {
    "admin": ("admin", "system:masters"),
    "kubelet": ("system:node:node-0", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", "system:authenticated"),
    "coredns": ("coredns", "system:masters"),
}
"""Who may ask the API server with a token of their own: name and group."""


@dataclass
class ControlPlane:
    """The processes of a control plane in a folder."""

    folder: Path
    network: Network | None = None
    """Of the node; without one there is only what listens on loopback."""
    parts: dict[str, Part] = field(default_factory=dict)
    programs: dict[str, Path] = field(default_factory=dict)
    tokens: dict[str, str] = field(
        default_factory=lambda: {user: secrets.token_hex(16) for user in USERS}
    )

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.etcd_port, self.etcd_peer_port, self.port = free_ports(3)
        self.address = self.network.host if self.network else "127.0.0.1"
        self.services = self.network.services if self.network else SERVICES
        self.pods = self.network.pods if self.network else PODS

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def ca(self) -> Path:
        return self.folder / "pki" / "ca.crt"

    def start(self) -> None:
        """Returns when the API server is ready. Raises NotReady or tools.Unavailable."""
        names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
        self.programs |= ensure(names)
        self.client = kubectl()
        self._write_keys()
        self.start_etcd()
        self.start_apiserver()
        self.write_kubeconfig(self.kubeconfig, "admin")
        self.launch(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--root-ca-file={self.ca}",
            f"--service-account-private-key-file={self.folder}/sa.key",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--allocate-node-cidrs",
            f"--cluster-cidr={self.pods}",
            "--secure-port=0",
            # Its defaults, 20 requests a second, would start 1,000 Jobs in some minutes.
            "--kube-api-qps=200",
            "--kube-api-burst=400",
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
        """Returns when it is ready. Raises NotReady."""
        pki = self.folder / "pki"
        self.launch(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--secure-port={self.port}",
            "--bind-address=0.0.0.0",
            f"--advertise-address={self.address}",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--client-ca-file={self.ca}",
            f"--requestheader-client-ca-file={self.ca}",
            f"--kubelet-client-certificate={pki}/apiserver-to-kubelet.crt",
            f"--kubelet-client-key={pki}/apiserver-to-kubelet.key",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged",
            f"--service-cluster-ip-range={self.services}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder}/sa.pub",
            f"--service-account-signing-key-file={self.folder}/sa.key",
            "--kubelet-preferred-address-types=InternalIP",
        )
        self.wait_for("kube-apiserver", "/readyz")

    def wait_for(self, name: str, path: str) -> None:
        """Waits until the API server answers the path with 200."""
        ends_at = time.monotonic() + READY_S
        while time.monotonic() < ends_at:
            if self.parts[name].process.poll() is not None:
                raise NotReady(f"{name} ended: {self.parts[name].tail()}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                self.ask(path)
                return
            time.sleep(0.1)
        raise NotReady(f"{name} is not ready after {READY_S:.0f} s: {self.parts[name].tail()}")

    def ask(self, path: str) -> bytes:
        """What the API server answers, without a process as kubectl is. Raises OSError."""
        context = ssl.create_default_context(cafile=self.ca)
        token = {"Authorization": f"Bearer {self.tokens['admin']}"}
        request = urllib.request.Request(f"{self.server}{path}", headers=token)
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            body: bytes = answer.read()
        return body

    def program(self, name: str) -> str:
        """Where one of tools.TOOLS is; it is made where it is not there. Raises Unavailable."""
        if name not in self.programs:
            self.programs |= ensure([name])
        return str(self.programs[name])

    def launch(self, name: str, *flags: str) -> None:
        """Starts a part."""
        self.run(name, (self.program(name), *flags))

    def run(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Starts a process that is ended with the others, in a session of its own."""
        self.parts[name] = launch(self.folder, name, command, env or {})

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl as the cluster's administrator prints. Raises CalledProcessError."""
        flags = [f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.folder}/kubectl"]
        done = subprocess.run(
            [str(self.client), *flags, *arguments], input=given, capture_output=True, text=True
        )
        try:
            done.check_returncode()
        except subprocess.CalledProcessError as error:
            error.add_note(done.stderr)
            raise
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Creates or changes objects."""
        self.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(objects))

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends one part."""
        self.parts.pop(name).kill(number)

    def stop(self) -> None:
        """Ends all parts, the API server before what it stores in."""
        for name in reversed(list(self.parts)):
            self.kill(name)
        end_all(self.folder)
        wait_until_gone(self.folder)

    def _write_keys(self) -> None:
        key = self.folder / "sa.key"
        for command in (
            ["openssl", "genrsa", "-out", str(key), "2048"],
            ["openssl", "rsa", "-in", str(key), "-pubout", "-out", f"{self.folder}/sa.pub"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        tokens = self.folder / "tokens.csv"
        tokens.touch(0o600)
        lines = [
            f'{self.tokens[key]},{name},{name},"{group}"' for key, (name, group) in USERS.items()
        ]
        tokens.write_text("\n".join(lines) + "\n")
        pki = self.folder / "pki"
        pki.mkdir(exist_ok=True)
        make_authority(pki, "webvision-test-ca")
        own = str(ipaddress.ip_network(self.services)[1])
        names = [f"IP:{address}" for address in sorted({"127.0.0.1", self.address, own})]
        names += ["DNS:localhost", "DNS:kubernetes", "DNS:kubernetes.default"]
        sign(pki, "apiserver", "/CN=kube-apiserver", [*names, "DNS:kubernetes.default.svc"])
        sign(pki, "apiserver-to-kubelet", "/O=system:masters/CN=apiserver-to-kubelet")

    def write_kubeconfig(self, path: Path, user: str, address: str = "127.0.0.1") -> None:
        """Settings with which one of USERS reaches the API server at an address of this machine."""
        server = {"server": f"https://{address}:{self.port}", "certificate-authority": str(self.ca)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": user, "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        }
        path.touch(0o600)
        path.write_text(yaml.safe_dump(config))


@contextlib.contextmanager
def control_plane(folder: Path, network: Network | None = None) -> Iterator[ControlPlane]:
    """A running control plane."""
    plane = ControlPlane(folder, network)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
