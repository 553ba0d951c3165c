"""Namespaces of mounts, network and processes in which a node lives, so that it ends as a whole.

Whatever a node makes in them (mounts, bridges, network namespaces, packet filter rules, processes
of pods) is the kernel's to clear away when the first process in them ends. On the machine itself
there are only a pair of virtual interfaces, which goes with it, and control groups, which `clear`
removes. The machine's own containerd, kubelet or Docker see nothing of it.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.network import Network
from tests.cluster.parts import NotReady, Part, children

START_S = 20.0
CLEAR_S = 10.0
CGROUPS = Path("/sys/fs/cgroup")
CPU_WEIGHTS = {"cpu.shares": "4096", "cpu.weight": "400"}
"""Four times the default in either version: as much as four processes of the machine outside of
any group, else all pods together get as much as one of them."""
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What a kubelet would set for the whole machine: files over them tell it that it is so already."""

_SETUP = r"""
set -eu
folder=$1
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/netns /run/lock
mkdir -p /run/keep /run/lib/upper /run/lib/work
mount --bind "$folder" /run/keep
# Kubelet and network plugins have places below /var/lib that cannot be chosen.
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/lib/upper,workdir=/run/lib/work node /var/lib
mkdir -p /var/lib/kubelet /var/lib/cni
mount --bind /run/keep/kubelet /var/lib/kubelet
mount --bind /run/keep/cni-state /var/lib/cni
mount --bind /run/keep/log /var/log
# Where the folder itself lies there, it is to be seen as it is.
case "$folder" in /var/lib/*) mount --bind /run/keep "$folder" ;; esac
umount /run/keep
for file in "$folder"/kernel/*; do
    mount --bind "$file" "/proc/sys/$(basename "$file" | tr , /)"
done
echo 1 >/proc/sys/net/ipv4/ip_forward
ip link set lo up
touch "$folder/set-up"
# The first process of a namespace has to bury those whose parents have died.
while :; do sleep 3600 & wait $! || :; done
"""


class Sandbox:
    """The namespaces, their way to this machine, and their control groups."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder, self.network = folder, network
        self.group = f"webvision-{network.number}"
        self.interface = f"webvision-{network.number}"
        self._first = 0

    def command(self) -> list[str]:
        """Starts the namespaces; they end with the process that runs this."""
        for name in ("log", "cni-state", "kernel", "kubelet"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "set-up").unlink(missing_ok=True)
        for name, value in KERNEL_SETTINGS.items():
            (self.folder / "kernel" / name.replace("/", ",")).write_text(f"{value}\n")
        flags = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return ["unshare", *flags, "sh", "-c", _SETUP, "first-of-node", str(self.folder)]

    def connect(self, part: Part) -> None:
        """Waits until the namespaces are there, and gives them their network. Raises NotReady."""
        ends_at = time.monotonic() + START_S
        while not (self.folder / "set-up").exists():
            if part.process.poll() is not None or time.monotonic() > ends_at:
                raise NotReady(f"the node's namespaces cannot be made: {part.tail()}")
            time.sleep(0.02)
        (self._first,) = children(part.process.pid)
        net = self.network
        _run("ip", "link", "add", self.interface, "type", "veth", "peer", "name", "eth0",
             "netns", str(self._first))  # fmt: skip
        _run("ip", "address", "add", f"{net.host}/30", "dev", self.interface)
        _run("ip", "link", "set", self.interface, "up")
        _run(*self.inside("ip", "address", "add", f"{net.node}/30", "dev", "eth0"))
        _run(*self.inside("ip", "link", "set", "eth0", "up"))
        # Pods and Services are reached from here too. They have no way out beyond this machine.
        for reached in (net.pods, net.services):
            _run("ip", "route", "add", reached, "via", net.node)
        for folder in _hierarchies():
            group = folder / self.group
            group.mkdir(exist_ok=True)
            for file, weight in CPU_WEIGHTS.items():
                if (group / file).exists():
                    (group / file).write_text(weight)

    def inside(self, *command: str) -> list[str]:
        """The command as it runs in the namespaces."""
        return ["nsenter", f"--target={self._first}", "--mount", "--net", "--pid", "--", *command]

    def clear(self) -> None:
        """Removes interface and control groups; the processes must have been ended."""
        # The kernel does it too, a little later.
        delete = ("ip", "link", "delete", self.interface)
        subprocess.run(delete, capture_output=True)  # fails where it is gone
        _clear_groups(self.group)


def can_unshare(*flags: str) -> bool:
    """Whether such namespaces can be made here; in a container root may lack the right."""
    return subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode == 0


def _clear_groups(name: str) -> None:
    ends_at = time.monotonic() + CLEAR_S
    for folder in _hierarchies():
        group = folder / name
        while group.exists() and time.monotonic() < ends_at:
            below = sorted((each for each in group.rglob("*") if each.is_dir()), reverse=True)
            for each in [*below, group]:
                with contextlib.suppress(OSError):  # a process in it is still ending
                    each.rmdir()
            time.sleep(0.05 if group.exists() else 0)


def _hierarchies() -> list[Path]:
    """The roots of the control groups: one in version 2, one a controller in version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    found = {each.resolve() for each in CGROUPS.iterdir() if (each / "cgroup.procs").exists()}
    return sorted(found)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotReady(f"{_shown(command)} failed: {done.stderr.strip()[-300:]}")


def _shown(command: Sequence[str]) -> str:
    return " ".join(command)
