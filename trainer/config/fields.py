"""How a field of a configuration is written down: default, meaning, reason, unit, range."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(
    default: Any,
    doc: str,
    why: str,
    *,
    unit: str = "",
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    required: bool = False,
) -> Any:
    """A configuration field: default, meaning, reason of the default, unit and allowed range."""
    meta = {
        "doc": doc,
        "why": why,
        "unit": unit,
        "least": least,
        "above": above,
        "most": most,
        "required": required,
    }
    if isinstance(default, dict):  # each configuration has its own
        return field(default_factory=default.copy, metadata=meta)
    return field(default=default, metadata=meta)


def section(kind: type, doc: str) -> Any:
    """A nested group of fields."""
    return field(default_factory=kind, metadata={"doc": doc})
