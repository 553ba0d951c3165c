"""Container images made without a registry and without Docker, as archives that containerd imports.

`pause` holds a pod's namespaces. `tools` has a shell and a few programs of this machine with their
libraries. `suite` has only empty folders and links: /usr, the virtual environment and the Python
installation are mounted into its pods read-only (`suite_volumes`), since torch alone is 5 GB.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.tools import ROOT, Unavailable

REGISTRY = "cluster.test"
"""A name under .test never exists in DNS, so nothing can be pulled from it."""
PAUSE = f"{REGISTRY}/pause:1"
TOOLS = f"{REGISTRY}/tools:1"
SUITE = f"{REGISTRY}/suite:1"

PROGRAMS = ("sh", "cat", "getent", "id", "ls", "sleep", "touch", "ip")
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
USER = 10001

_PAUSE = r"""
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void quit(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) {
    signal(SIGINT, quit);
    signal(SIGTERM, quit);
    signal(SIGCHLD, reap);
    for (;;) pause();
}
"""


def write_images(folder: Path) -> list[Path]:
    """Archives of all images. Raises tools.Unavailable."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"User": str(USER)}
    accounts = {"etc/passwd": f"suite:x:{USER}:{USER}::/:/bin/sh\n".encode()}
    accounts["etc/group"] = f"suite:x:{USER}:\n".encode()
    path = f"PATH={Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    found = {name: shutil.which(name) for name in PROGRAMS}
    if missing := [name for name, place in found.items() if place is None]:
        raise Unavailable(f"no program {missing[0]}")
    programs = [Path(place) for place in found.values() if place is not None]
    return [
        write_archive(
            folder / "pause.tar", PAUSE, {"pause": _build_pause()}, {"Entrypoint": ["/pause"]}
        ),
        write_archive(
            folder / "tools.tar",
            TOOLS,
            accounts | _with_libraries(programs),
            config | {"Cmd": ["sh"], "Env": ["PATH=/usr/bin:/usr/sbin"]},
        ),
        write_archive(folder / "suite.tar", SUITE, accounts, config | {"Env": [path]}),
    ]


def suite_volumes() -> list[tuple[str, str]]:
    """Name and path of what the suite's pods mount from this machine at the same path."""
    paths = [Path("/usr"), Path(sys.prefix), Path(sys.base_prefix), ROOT / "launcher"]
    paths += [ROOT / "trainer", ROOT / "examples"]
    outermost: list[Path] = []
    for path in sorted({path.resolve() for path in paths}):
        if not any(path.is_relative_to(outer) for outer in outermost):
            outermost.append(path)
    return [(f"machine-{number}", str(path)) for number, path in enumerate(outermost)]


def with_machine(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod's spec with those folders mounted; changes it."""
    folders = suite_volumes()
    pod["volumes"] = pod.get("volumes", []) + [
        {"name": name, "hostPath": {"path": path, "type": "Directory"}} for name, path in folders
    ]
    for container in pod["containers"]:
        container["volumeMounts"] = container.get("volumeMounts", []) + [
            {"name": name, "mountPath": path, "readOnly": True} for name, path in folders
        ]
    return pod


def write_archive(
    path: Path, name: str, files: Mapping[str, bytes | Path], config: Mapping[str, Any]
) -> Path:
    """A docker-archive of one layer: files by their path, and the usual empty folders and links."""
    layer = _layer(files)
    described = {
        "architecture": "amd64",
        "os": "linux",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    contents = {
        "layer.tar": layer,
        "config.json": json.dumps(described).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    with tarfile.open(path, "w") as archive:
        for file, content in contents.items():
            _add(archive, file, content, 0o644)
    return path


def _layer(files: Mapping[str, bytes | Path]) -> bytes:
    """A tar of the files below the usual folders, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folders = {"dev", "etc", "proc", "sys", "tmp", *LINKS.values()}
        folders |= {str(parent) for file in files for parent in Path(file).parents}
        folders |= {str(parent) for folder in folders for parent in Path(folder).parents}
        for folder in sorted(folders - {"."}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for link, target in LINKS.items():
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for file, content in sorted(files.items()):
            data = content if isinstance(content, bytes) else content.read_bytes()
            _add(archive, file, data, 0o644 if file.startswith("etc/") else 0o755)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _with_libraries(programs: Sequence[Path]) -> dict[str, bytes | Path]:
    """The programs, and the libraries which the loader names, each below /usr."""
    files: dict[str, bytes | Path] = {}
    for program in programs:
        files[_below_usr(Path("/usr/bin") / program.name)] = program.resolve()
        listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True).stdout
        for place in _absolute(listed.split()):
            files[_below_usr(place)] = place.resolve()
    return files


def _absolute(words: Iterable[str]) -> list[Path]:
    return [Path(word) for word in words if word.startswith("/")]


def _below_usr(path: Path) -> str:
    """/lib/x as usr/lib/x: the image links the one to the other, as Debian does."""
    relative = str(path).lstrip("/")
    return relative if relative.startswith("usr/") else f"usr/{relative}"


def _build_pause() -> bytes:
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("no C compiler (cc), which makes the image that holds pods")
    with tempfile.TemporaryDirectory() as folder:
        command = [compiler, "-Os", "-static", "-s", "-x", "c", "-o", f"{folder}/pause", "-"]
        done = subprocess.run(
            command, input=_PAUSE.encode(), capture_output=True, env=os.environ | {"LC_ALL": "C"}
        )
        if done.returncode:
            raise Unavailable(f"cc cannot link statically: {done.stderr.decode().strip()[-300:]}")
        return Path(folder, "pause").read_bytes()
