"""Reading the data files: YAML with known keys and numbers in range; errors are one line."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Any

from launcher.errors import UsageError


def packaged(name: str) -> str:
    """The text of a data file of this package."""
    return resources.files("launcher.plan").joinpath(name).read_text(encoding="utf-8")


def read_mapping(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML or JSON text holds. Raises UsageError naming the source."""
    import yaml

    try:
        tree = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise UsageError(f"{source} is not valid YAML{where}: {problem}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{source} must hold keys and values")
    return tree


def check_keys(entry: Any, needed: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Raises UsageError where the entry is no mapping, lacks a needed key, or has a foreign one."""
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is {entry!r}, but it must hold keys and values")
    needed, allowed = list(needed), list(allowed)
    for key in needed:
        if key not in entry:
            raise UsageError(f"{where} lacks {key}; needed are {', '.join(needed)}")
    for key in entry:
        if key not in needed and key not in allowed:
            known = ", ".join((*needed, *allowed))
            raise UsageError(f"{where} has {key!r}, which is unknown; known are {known}")


def number(entry: dict[str, Any], key: str, where: str, *, most: float = float("inf")) -> float:
    """A number above 0 and at most `most`."""
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        end = "" if most == float("inf") else f" and at most {most:g}"
        raise UsageError(f"{key} of {where} is {value!r}, but a number above 0{end} is needed")
    return float(value)
