"""Where defaults come from: flag > LAUNCHER_* > project file > user file > built-in.

The project file is ./launcher.toml (table [launcher]) or ./pyproject.toml (table [tool.launcher]),
the user's is $XDG_CONFIG_HOME/launcher/config.toml (table [launcher]). No key holds a secret.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import UsageError

KEYS: dict[str, str] = {
    "image": "container image of the trainer, best by digest",
    "data": "address of the packed training set (file:// or s3://)",
    "val": "address of the packed validation set",
    "checkpoints": "folder (file:// or s3://) under which each run gets its own",
    "namespace": "namespace of the cluster; empty: the context's",
    "budget": "budget that jobs are charged to",
    "ledger": "address of the GPU-time ledger that usage and budget read (folder or s3://)",
    "user": "who is shown as the user of jobs; built-in: the login",
    "stage": "stage of the pipeline, for accounting",
    "queue": "Kueue's LocalQueue",
    "s3_secret": "Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "priority_class": "PriorityClass of the pods",
    "gpu_product": "node label nvidia.com/gpu.product wanted; several by commas, best first",
    "tolerations": "taints that all pods tolerate, KEY[=VALUE][:EFFECT] by commas",
    "image_pull_secrets": "Secrets for the image's registry, by commas",
    "service_account": "ServiceAccount of the workers, for workload identity",
    "ca_bundle": "ConfigMap with the certificates that the workers trust",
    "http_proxy": "HTTP_PROXY of the workers",
    "https_proxy": "HTTPS_PROXY of the workers",
    "no_proxy": "hosts for NO_PROXY beside those of the cluster, by commas",
}
"""Each key with its meaning; all values are strings, and "" means not set."""

PROJECT_FILE = "launcher.toml"


@dataclass(frozen=True)
class Setting:
    """A value and where it was found: a variable's name, a file's path, or built-in."""

    value: str
    origin: str


@dataclass(frozen=True)
class Settings:
    """Every key with its value and origin."""

    entries: Mapping[str, Setting]
    files: tuple[Path, ...]
    """Those that were found, strongest first."""

    def get(self, key: str) -> str:
        return self.entries[key].value


def variable(key: str) -> str:
    """The environment variable of a key."""
    return f"LAUNCHER_{key.upper()}"


def user_file(env: Mapping[str, str]) -> Path:
    """The user's own settings file, there or not."""
    base = env.get("XDG_CONFIG_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".config")
    return Path(base) / "launcher" / "config.toml"


def load(env: Mapping[str, str], folder: Path) -> Settings:
    """Settings as seen from `folder`. Raises UsageError for a broken file or an unknown key."""
    candidates = [
        (folder / PROJECT_FILE, ("launcher",)),
        (folder / "pyproject.toml", ("tool", "launcher")),
        (user_file(env), ("launcher",)),
    ]
    layers = [(path, _read(path, table)) for path, table in candidates if path.is_file()]
    entries = {key: Setting("", "built-in") for key in KEYS}
    entries["user"] = Setting(env.get("LOGNAME") or env.get("USER") or "", "built-in")
    for path, layer in reversed(layers):
        entries |= {key: Setting(value, str(path)) for key, value in layer.items()}
    for key in KEYS:
        if variable(key) in env:
            entries[key] = Setting(env[variable(key)], variable(key))
    return Settings(entries, tuple(path for path, layer in layers if layer))


def check_key(key: str, where: str = "") -> str:
    """The key itself, if there is one of that name."""
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}"
        raise UsageError(f"setting {key!r}{where and f' in {where}'} is unknown; {hint}")
    return key


def store(path: Path, key: str, value: str) -> None:
    """Sets one key in the table [launcher] of a file; its other lines stay as they are."""
    check_key(key)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if path.exists():
        _read(path, ("launcher",))  # a broken file is told, not made worse
    line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
    start = next(
        (n for n, text in enumerate(lines) if text.split("#")[0].strip() == "[launcher]"), None
    )
    if start is None:
        lines += ([""] if lines else []) + ["[launcher]", line]
    else:
        end = next(
            (n for n in range(start + 1, len(lines)) if lines[n].lstrip().startswith("[")),
            len(lines),
        )
        old = [n for n in range(start + 1, end) if re.match(rf"\s*{key}\s*=", lines[n])]
        if old:
            lines[old[0]] = line
        else:
            lines.insert(start + 1, line)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the settings file {path}: {error.strerror}") from error


def _read(path: Path, table: tuple[str, ...]) -> dict[str, str]:
    """The launcher's table of a TOML file, checked; empty if the file has none."""
    import tomllib

    try:
        tree: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read the settings file {path}: {error.strerror}") from error
    if path.name != "pyproject.toml":
        for name in tree:
            if name != table[0]:
                raise UsageError(f"{name!r} in {path} is unknown; settings stand under [launcher]")
    for name in table:
        tree = tree.get(name, {})
        if not isinstance(tree, dict):
            raise UsageError(f"{name!r} in {path} must be a table, [{'.'.join(table)}]")
    for key, value in tree.items():
        check_key(key, str(path))
        if not isinstance(value, str):
            raise UsageError(f"{key} in {path} is {value!r}, but it must be a string in quotes")
    return dict(tree)
