"""Controllers as processes of this machine, whose webhooks the API server asks on loopback.

In a cluster the kubelet mounts a webhook's certificate; here it is made beforehand for the
Service's name and for 127.0.0.1, and laid where the controller reads it. That folder is fixed in
the library that they share, so it is mounted over in a mount namespace.
"""

from __future__ import annotations

import base64
import contextlib
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import READY_S, ControlPlane
from tests.cluster.parts import NotReady

CERTIFICATES = "/tmp/k8s-webhook-server/serving-certs"
"""Where a controller reads its certificate, whatever TMPDIR is."""


def run_controller(
    plane: ControlPlane, name: str, folder: Path, command: Sequence[str], env: Mapping[str, str]
) -> None:
    """Starts it with the folder's tls.crt and tls.key as its webhook's certificate."""
    mount = f'mkdir -p {CERTIFICATES} && mount --bind "$1" {CERTIFICATES} && shift && exec "$@"'
    plane.run(name, ["unshare", "--mount", "sh", "-c", mount, "-", str(folder), *command], env)


def wait_until_healthy(plane: ControlPlane, name: str, port: int) -> None:
    """Returns when it answers on its health port. Raises NotReady."""
    ends_at = time.monotonic() + READY_S
    part = plane.parts[name]
    while time.monotonic() < ends_at:
        if part.process.poll() is not None:
            raise NotReady(f"{name} ended: {part.tail()}")
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2)
            return
        time.sleep(0.1)
    raise NotReady(f"{name} is not ready after {READY_S:.0f} s: {part.tail()}")


def client_config(folder: Path, port: int, path: str) -> dict[str, Any]:
    """Where the API server finds the webhook, and the folder's authority, which it trusts."""
    ca = base64.b64encode((folder / "ca.crt").read_bytes()).decode()
    return {"url": f"https://127.0.0.1:{port}/{path.lstrip('/')}", "caBundle": ca}
