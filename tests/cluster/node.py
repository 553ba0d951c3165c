"""A real node beside the control plane: containerd, kubelet, kube-proxy, and DNS, in a sandbox.

Pods resolve the names of Services, reach their addresses and this machine (`Network.host`), and
nothing beyond it. Images come from `images.py`. GPUs are numbers only: the scheduler and quotas
count them as they count real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.control_plane import READY_S, ControlPlane
from tests.cluster.images import PAUSE, write_images
from tests.cluster.network import Network
from tests.cluster.parts import NotReady
from tests.cluster.sandbox import Sandbox, can_unshare
from tests.cluster.tools import Unavailable

PROGRAMS = ("containerd", "runc", "iptables", "ip", "nsenter", "unshare", "cc", "ldd")
PACKAGES = "containerd runc containernetworking-plugins iptables iproute2"
"""Of Debian, which have them."""
PLUGINS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
"""Where distributions keep the network plugins."""
SOCKET = "/run/containerd/containerd.sock"
KUBELET = "/var/lib/kubelet"
"""In the sandbox; on this machine it is the folder kubelet."""
GPUS = 8
NAME = "node-0"


def why_absent() -> str:
    """What this machine lacks for a node, in a line; empty where nothing is."""
    if os.geteuid() != 0:
        return "a node needs root"
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return f"a node needs the program {program}; Debian's packages: {PACKAGES}"
    if not can_unshare("--mount", "--net", "--pid", "--fork"):
        return "a node needs the right to make mount, network and process namespaces"
    if _plugins() is None:
        return "a node needs network plugins, which Debian has in containernetworking-plugins"
    return ""


class Node:
    """The one node of a control plane that was started with its network."""

    def __init__(self, plane: ControlPlane, gpus: int = GPUS) -> None:
        assert plane.network is not None, "a node needs a control plane with a network"
        self.plane, self.gpus = plane, gpus
        self.network: Network = plane.network
        self.folder = plane.folder / "node"
        self.folder.mkdir(exist_ok=True)
        self.sandbox = Sandbox(self.folder, self.network)

    def start(self) -> None:
        """Returns when pods can run. Raises NotReady, or Unavailable where a program is absent."""
        if reason := why_absent():
            raise Unavailable(reason)
        for program in ("kubelet", "kube-proxy", "coredns"):
            self.plane.program(program)
        images = write_images(self.folder / "images")
        self.plane.run("node", self.sandbox.command())
        self.sandbox.connect(self.plane.parts["node"])
        self._write_configurations()
        self._run("containerd", "containerd", f"--config={self.folder}/containerd.toml")
        self._wait_for_containerd()
        for image in images:
            self.import_image(image)
        self.start_kubelet()
        self._run(
            "kube-proxy",
            self.plane.program("kube-proxy"),
            f"--config={self.folder}/kube-proxy.yaml",
        )
        self._run("coredns", self.plane.program("coredns"), f"-conf={self.folder}/Corefile")
        self._wait_until_ready()
        self._add_gpus()

    def start_kubelet(self) -> None:
        """Starts it, and does not wait."""
        self._run(
            "kubelet",
            self.plane.program("kubelet"),
            f"--config={self.folder}/kubelet.yaml",
            f"--kubeconfig={self.folder}/kubelet.kubeconfig",
            f"--root-dir={KUBELET}",
            f"--cert-dir={KUBELET}/pki",
            f"--node-ip={self.network.node}",
            f"--hostname-override={NAME}",
            "--v=1",
        )

    def restart_kubelet(self) -> None:
        """Kills it and starts it; its pods live on. Returns when the node is ready again."""
        self.plane.kill("kubelet")
        before = self._heartbeat()
        self.start_kubelet()
        self._wait_until_ready(after=before)

    def import_image(self, archive: Path) -> None:
        """Gives an archive's images to containerd; it must not lie in /run or /var/log."""
        flags = [f"--address={SOCKET}", "--namespace=k8s.io", "images", "import", str(archive)]
        done = subprocess.run(self.sandbox.inside("ctr", *flags), capture_output=True, text=True)
        if done.returncode:
            raise NotReady(f"{archive.name} cannot be imported: {done.stderr.strip()[-300:]}")

    def stop(self) -> None:
        """Ends the node with all its pods, whichever part has died before."""
        for name in ("coredns", "kube-proxy", "kubelet", "containerd", "node"):
            if name in self.plane.parts:
                self.plane.kill(name)
        self.sandbox.clear()

    def _run(self, name: str, *command: str) -> None:
        self.plane.run(name, self.sandbox.inside(*command))

    def _write_configurations(self) -> None:
        folder, net = self.folder, self.network
        (folder / "cni").mkdir(exist_ok=True)
        plugins = _plugins()
        assert plugins is not None
        (folder / "containerd.toml").write_text(_containerd(folder, plugins))
        (folder / "cni/10-bridge.conflist").write_text(json.dumps(_cni(net), indent=1))
        (folder / "resolv.conf").write_text("")
        (folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(self)))
        (folder / "kube-proxy.yaml").write_text(yaml.safe_dump(_kube_proxy(self)))
        for user in ("kubelet", "kube-proxy", "coredns"):
            self.plane.write_kubeconfig(folder / f"{user}.kubeconfig", user, net.host)
        (folder / "Corefile").write_text(_corefile(self))
        _write_device_checkpoint(folder / "kubelet/device-plugins")

    def _wait_for_containerd(self) -> None:
        ends_at = time.monotonic() + READY_S
        part = self.plane.parts["containerd"]
        asking = self.sandbox.inside("ctr", f"--address={SOCKET}", "version")
        while subprocess.run(asking, capture_output=True).returncode:
            if part.process.poll() is not None or time.monotonic() > ends_at:
                raise NotReady(f"containerd does not answer: {part.tail()}")
            time.sleep(0.1)

    def _wait_until_ready(self, after: str = "") -> None:
        """Waits for a Ready condition that is younger than the given heartbeat."""
        ends_at = time.monotonic() + READY_S
        part = self.plane.parts["kubelet"]
        while time.monotonic() < ends_at:
            if part.process.poll() is not None:
                raise NotReady(f"kubelet ended: {part.tail()}")
            condition = self._condition()
            ready = condition.get("status") == "True" and condition["lastHeartbeatTime"] > after
            if ready and self._answers():
                return
            time.sleep(0.1)
        raise NotReady(f"the node is not ready after {READY_S:.0f} s: {part.tail()}")

    def _condition(self) -> dict[str, Any]:
        try:
            node = json.loads(self.plane.ask(f"/api/v1/nodes/{NAME}"))
        except OSError:  # it has not registered yet
            return {}
        conditions = node.get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == "Ready"), {})

    def _answers(self) -> bool:
        """Whether the API server reaches the kubelet, as it must for logs."""
        try:
            return self.plane.ask(f"/api/v1/nodes/{NAME}/proxy/healthz") == b"ok"
        except OSError:
            return False

    def _heartbeat(self) -> str:
        return str(self._condition().get("lastHeartbeatTime", ""))

    def _add_gpus(self) -> None:
        count = {"nvidia.com/gpu": str(self.gpus)}
        patch = json.dumps({"status": {"capacity": count, "allocatable": count}})
        self.plane.kubectl("patch", "node", NAME, "--subresource=status", f"--patch={patch}")


def _plugins() -> Path | None:
    return next((each for each in PLUGINS if (each / "bridge").exists()), None)


def _containerd(folder: Path, plugins: Path) -> str:
    return f"""
version = 2
root = "{folder}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
disable_apparmor = true
# Where CAP_SYS_RESOURCE is missing, lowering the score is refused, and every pod dies of it.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def _cni(net: Network) -> dict[str, Any]:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": net.pods_of_node}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "webvision", "plugins": [bridge, portmap]}


def _kubelet(node: Node) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": str(node.plane.ca)},
        },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.sandbox.group}",
        "clusterDNS": [node.network.node],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        # A full disk of the machine is not the tests' concern.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%"}
        | {"nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "2s",
        "resolvConf": str(node.folder / "resolv.conf"),
    }


def _kube_proxy(node: Node) -> dict[str, Any]:
    # The numbers of tracked connections belong to the whole machine; 0 leaves them alone.
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{node.folder}/kube-proxy.kubeconfig"},
        "clusterCIDR": node.network.pods,
        "conntrack": {"maxPerCore": 0, "min": 0}
        | {"tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "hostnameOverride": NAME,
        "iptables": {"minSyncPeriod": "100ms"},
        "mode": "iptables",
    }


def _corefile(node: Node) -> str:
    return f"""
cluster.local in-addr.arpa {{
    bind {node.network.node}
    errors
    kubernetes {{
        kubeconfig {node.folder}/coredns.kubeconfig
        ttl 5
    }}
}}
. {{
    bind {node.network.node}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def _write_device_checkpoint(folder: Path) -> None:
    """An empty list of device plugins: without one a kubelet sets the GPUs to 0 when it starts."""
    folder.mkdir(parents=True, exist_ok=True)
    empty: dict[str, Any] = {"PodDeviceEntries": None, "RegisteredDevices": {}}
    # What the kubelet sums is the value as its debug printer shows it.
    shown = (
        "(checkpoint.checkpointData){PodDeviceEntries:([]checkpoint.PodDevicesEntry)<nil>"
        " RegisteredDevices:(map[string][]string)map[]}"
    )
    text = json.dumps({"Data": empty, "Checksum": _fnv32a(shown.encode())})
    (folder / "kubelet_internal_checkpoint").write_text(text)


def _fnv32a(data: bytes) -> int:
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value
