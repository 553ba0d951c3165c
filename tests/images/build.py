"""Builds the images with an engine of our own: `python -m tests.images.build launcher [FILE]`.

The base is PYTHON_IMAGE from a registry where that variable is set, else a Debian that mmdebstrap
makes here once; builds then need the network for the locked packages only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.tools import ROOT, cache
from tests.images.engine import Engine, Unavailable, engine

BASE = "base:local"
PACKAGES = "python3,python3-venv,ca-certificates,netbase,tzdata"
SUITE = "bookworm"
"""Debian's release that has the Python of the locks."""
AUTHORITIES = ("SSL_CERT_FILE", "PIP_CERT")
"""Who has to pass a proxy with certificates of its own names them in one of these."""


@dataclass(frozen=True)
class Image:
    """An image of ours and where it comes from."""

    name: str
    file: str
    target: str = ""

    @property
    def tag(self) -> str:
        suffix = f"-{self.target}" if self.target not in ("", "cuda") else ""
        return f"{self.name}:{version()}{suffix}"


LAUNCHER = Image("launcher", "images/launcher/Dockerfile")
TRAINER_CPU = Image("trainer", "images/trainer/Dockerfile", "cpu")
TRAINER_CUDA = Image("trainer", "images/trainer/Dockerfile", "cuda")
RUNTIME_EFA = Image("trainer", "images/trainer/Dockerfile", "runtime-efa")
"""What is below the trainer's environment for the AWS fabric."""
IMAGES = {"launcher": LAUNCHER, "trainer-cpu": TRAINER_CPU, "trainer-cuda": TRAINER_CUDA}


def version() -> str:
    """The project's version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def build(running: Engine, image: Image, **arguments: str) -> str:
    """Builds an image and returns its tag. Raises Unavailable, and AssertionError if it fails.

    arguments: for its --build-arg, beside base and version.
    """
    base = os.environ.get("PYTHON_IMAGE") or _local_base(running)
    found = (os.environ.get(name, "") for name in AUTHORITIES)
    authority = next((Path(name) for name in found if name and Path(name).exists()), None)
    try:
        running.build(
            ROOT,
            image.file,
            image.tag,
            target=image.target,
            arguments=arguments
            | {"PYTHON_IMAGE": base, "VERSION": version(), "REVISION": _revision()},
            secrets={"ca": authority} if authority else {},
        )
    except subprocess.CalledProcessError as error:
        lines = "\n".join(error.stderr.strip().splitlines()[-15:])
        raise AssertionError(f"{image.file} does not build:\n{lines}") from None
    return image.tag


def archive(image: Image) -> Path:
    """A tar of the image as it follows from the present files; made where there is none yet.

    `ctr -n k8s.io images import` and `docker load` read it. Raises Unavailable.
    """
    folder = cache() / "images"
    target = folder / f"{image.tag.replace(':', '-')}-{_digest(image)[:12]}.tar"
    with _alone(target):
        if target.exists():
            return target
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            with engine(Path(scratch) / "engine") as running:
                build(running, image)
                running.save(image.tag, Path(scratch) / "image.tar")
            for older in folder.glob(f"{image.tag.replace(':', '-')}-*.tar"):
                older.unlink()
            Path(scratch, "image.tar").rename(target)
    return target


def _local_base(running: Engine) -> str:
    """Loads the Debian that mmdebstrap made, making it at the first call of all."""
    folder = cache() / "images"
    target = folder / f"base-{SUITE}.tar"
    with _alone(target):
        if not target.exists():
            program = shutil.which("mmdebstrap")
            if program is None:
                raise Unavailable("no program mmdebstrap, and PYTHON_IMAGE names no base image")
            made = folder / "base.part.tar"
            command = [program, "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
            done = subprocess.run([*command, SUITE, str(made)], capture_output=True, text=True)
            if done.returncode:
                made.unlink(missing_ok=True)
                raise Unavailable(f"mmdebstrap: {done.stderr.strip()[-300:]}")
            made.rename(target)
    if (
        BASE
        not in running.docker("image", "ls", "--format={{.Repository}}:{{.Tag}}").stdout.split()
    ):
        running.load_base(target, BASE)
    return BASE


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Two builds at once must not write the same file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / f"{target.name.partition('-')[0]}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(image: Image) -> str:
    """Of every file that goes into the image."""
    parts = (".dockerignore", "pyproject.toml", "README.md", "requirements", "launcher", "trainer")
    names = subprocess.run(
        ["git", "ls-files", "-c", "-o", "--exclude-standard", "--", image.file, *parts],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.splitlines()
    digest = hashlib.sha256(os.environ.get("PYTHON_IMAGE", SUITE).encode())
    for name in sorted({name for name in names if (ROOT / name).is_file()}):
        digest.update(f"{name}\0".encode() + (ROOT / name).read_bytes())
    return digest.hexdigest()


def _revision() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], check=False, capture_output=True, text=True, cwd=ROOT
    )
    return done.stdout.strip()


def main() -> int:
    """Builds one image, tells size and time, and writes it to a file where one is named."""
    names = sys.argv[1:]
    if len(names) not in (1, 2) or names[0] not in IMAGES:
        print(f"usage: python -m tests.images.build {{{','.join(IMAGES)}}} [FILE]", file=sys.stderr)
        return 2
    image = IMAGES[names[0]]
    try:
        with tempfile.TemporaryDirectory() as scratch, engine(Path(scratch) / "engine") as running:
            started_at = time.monotonic()
            build(running, image)
            print(described(running, image, time.monotonic() - started_at))
            if names[1:]:
                running.save(image.tag, Path(names[1]))
    except (Unavailable, AssertionError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def described(running: Engine, image: Image, elapsed_s: float) -> str:
    """One line for people."""
    size = int(running.docker("image", "inspect", "--format={{.Size}}", image.tag).stdout)
    return f"{image.tag:<24}{size / 1e6:8,.0f} MB, built in {elapsed_s:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
