"""Names of a cluster's jobs for the shell's completion, kept in a file: asking takes too long.

Whoever lists jobs leaves the names; completion reads them, and has them refreshed behind its back.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

FRESH_S = 20.0
"""Names that are older are asked for again, for the next completion."""


def recall(env: Mapping[str, str]) -> list[str]:
    """The names that were seen last with this kubeconfig; refreshed in the background if old."""
    path = _file(env)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        names, age_s = list(map(str, kept["names"])), time.time() - path.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        names, age_s = [], FRESH_S
    if age_s >= FRESH_S:
        _refresh(path)
    return names


def remember(env: Mapping[str, str], names: Iterable[str]) -> None:
    """Keeps the names; a cache folder that cannot be written is no reason to fail."""
    path = _file(env)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps({"names": sorted(set(names))}), encoding="utf-8")
        draft.replace(path)
    except OSError:
        return


def _refresh(path: Path) -> None:
    """Lists in a process of its own that nobody waits for; not more often than the names age."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(json.dumps({"names": []}), encoding="utf-8")
        os.utime(path)
        subprocess.Popen(
            [sys.executable, "-m", "launcher", "--request-timeout", "5s", "list", "-o", "name"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={key: value for key, value in os.environ.items() if "COMPLETE" not in key},
        )
    except OSError:
        return


def _file(env: Mapping[str, str]) -> Path:
    base = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".cache")
    config = env.get("KUBECONFIG") or "default"
    digest = hashlib.sha256(config.encode()).hexdigest()[:16]
    return Path(base) / "launcher" / f"jobs-{digest}.json"
