"""Objects as text that kubectl takes."""

from __future__ import annotations

import json
from typing import Any

from launcher.render.objects import Object


def to_yaml(objects: list[Object]) -> str:
    """One YAML document for each object; several lines of text stand as a block."""
    import yaml

    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    dumper = type("BlockDumper", (base,), {})

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    yaml.add_representer(str, text, Dumper=dumper)
    return str(
        yaml.dump_all(objects, Dumper=dumper, sort_keys=False, width=120, explicit_start=True)
    )


def to_json(objects: list[Object]) -> str:
    """A v1 List, as `kubectl get -o json` gives."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2)
