"""Debian's Docker engine for a while: a containerd and a dockerd that nobody else sees.

All they keep lies in two folders; no bridge, no packet filter and no network interface is made.
`stop` ends what runs in containers and both daemons, and unmounts what they left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

START_S = 60.0
"""It takes half a second on a quiet machine."""
STOP_S = 30.0
BUILD_S = 1800.0
CLIENT_S = 180.0
PROGRAMS = {
    "docker": ("/usr/bin/docker",),  # newer clients elsewhere on the path lack a builder
    "dockerd": ("/usr/sbin/dockerd", "/usr/bin/dockerd"),
    "containerd": ("/usr/bin/containerd",),
    "runc": ("/usr/sbin/runc", "/usr/bin/runc"),
}
CGROUPS = Path("/sys/fs/cgroup")


class Unavailable(Exception):
    """The engine's programs are not there or do not start: one line."""


def program(name: str) -> str:
    """Where one of Debian's programs is. Raises Unavailable."""
    for place in PROGRAMS.get(name, ()):
        if Path(place).exists():
            return place
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"no program {name}; install Debian's docker.io")
    return found


@dataclass
class Engine:
    """A Docker engine in a folder."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Socket addresses may have 107 letters, which a test's folder easily exceeds.
        self.run_folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/run"))
        self.group = self.run_folder.name

    @property
    def socket(self) -> str:
        return f"unix://{self.run_folder}/docker.sock"

    def start(self) -> None:
        """Returns when the engine answers. Raises Unavailable."""
        if os.geteuid() != 0:
            raise Unavailable("a Docker engine needs root")
        for name in PROGRAMS:
            program(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        containerd = f"{self.run_folder}/containerd.sock"
        self._launch(
            "containerd",
            f"--root={self.folder}/containerd",
            f"--state={self.run_folder}/containerd",
            f"--address={containerd}",
            f"--config={self._containerd_config()}",
        )
        self._wait_for("containerd", Path(containerd).exists)
        self._launch(
            "dockerd",
            f"--host={self.socket}",
            f"--containerd={containerd}",
            f"--data-root={self.folder}/docker",
            f"--exec-root={self.run_folder}/docker",
            f"--pidfile={self.run_folder}/docker.pid",
            f"--config-file={self._dockerd_config()}",
            f"--cgroup-parent=/{self.group}",
            "--oom-score-adjust=0",  # lowering it is refused in many sandboxes
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
        )
        self._wait_for("dockerd", self._answers)

    def docker(
        self, *arguments: str, timeout_s: float = CLIENT_S, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command of the client. Raises CalledProcessError, whose stderr tells why."""
        own = {"DOCKER_HOST": self.socket, "DOCKER_CONFIG": str(self.folder)}
        return subprocess.run(
            [program("docker"), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=os.environ | own | (env or {}),
        )

    def load_base(self, archive: Path, tag: str) -> None:
        """Makes a base image of a tar of a root file system."""
        path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.docker("import", f"--change={path}", str(archive), tag)

    def build(
        self,
        context: Path,
        file: str,
        tag: str,
        *,
        arguments: Mapping[str, str],
        target: str = "",
        secrets: Mapping[str, Path] | None = None,
    ) -> None:
        """Builds an image on the host's network. file: the Dockerfile, from the context on."""
        flags = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        flags += [f"--secret=id={name},src={path}" for name, path in (secrets or {}).items()]
        flags += [f"--target={target}"] if target else []
        self.docker(
            *("build", "--network=host", "--progress=plain", f"--file={context / file}"),
            *(f"--tag={tag}", *flags, str(context)),
            timeout_s=BUILD_S,
            env={"DOCKER_BUILDKIT": "1"},
        )

    def run(
        self, image: str, *arguments: str, flags: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """A container's output; it has no network and is gone afterwards."""
        return self.docker("run", "--rm", "--network=none", *flags, image, *arguments)

    def save(self, image: str, archive: Path) -> None:
        """Writes an image as a tar that `docker load` and `ctr images import` read."""
        self.docker("save", f"--output={archive}", image)

    def stop(self) -> None:
        """Ends containers and daemons; the folder with its images remains for the caller."""
        with contextlib.suppress(subprocess.SubprocessError, Unavailable):
            if running := self.docker("ps", "--quiet", timeout_s=STOP_S).stdout.split():
                self.docker("kill", *running, timeout_s=STOP_S)
        for name in reversed(list(self.daemons)):
            self._end(self.daemons.pop(name))
        _unmount_below(self.folder, self.run_folder)
        shutil.rmtree(self.run_folder, ignore_errors=True)
        for hierarchy in (CGROUPS, *CGROUPS.glob("*/")):
            for folder in (*sorted(hierarchy.glob(f"{self.group}/**/"), reverse=True),):
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _launch(self, name: str, *flags: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                [program(name), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _containerd_config(self) -> Path:
        path = self.folder / "containerd.toml"
        path.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        return path

    def _dockerd_config(self) -> Path:
        path = self.folder / "dockerd.json"
        path.write_text("{}\n")  # else the user's own, which may contradict the flags
        return path

    def _answers(self) -> bool:
        with contextlib.suppress(subprocess.SubprocessError):
            self.docker("version", timeout_s=10)
            return True
        return False

    def _wait_for(self, name: str, ready: Callable[[], bool]) -> None:
        ends_at = time.monotonic() + START_S
        while time.monotonic() < ends_at:
            if self.daemons[name].poll() is not None:
                break
            if ready():
                return
            time.sleep(0.1)
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        raise Unavailable(f"{name} does not start: {lines[-1] if lines else 'no word of it'}")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)


def _unmount_below(*folders: Path) -> None:
    """Unmounts what is mounted in the folders, the innermost first."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        places = [line.split()[4] for line in file]
    for place in sorted(places, reverse=True):
        if any(Path(place).is_relative_to(folder) for folder in folders):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """A running engine, whose images are deleted at the end."""
    running = Engine(folder)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)
