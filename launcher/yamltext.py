"""Objects as YAML that people read and kubectl takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def to_yaml(objects: Iterable[dict[str, Any]], *, sort_keys: bool = False) -> str:
    """One document for each object; several lines of text stand as a block."""
    import yaml

    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    dumper = type("BlockDumper", (base,), {})

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    yaml.add_representer(str, text, Dumper=dumper)
    return str(
        yaml.dump_all(objects, Dumper=dumper, sort_keys=sort_keys, width=120, explicit_start=True)
    )
