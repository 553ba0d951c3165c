"""Objects as text that kubectl takes."""

from __future__ import annotations

import json

from launcher.render.objects import Object
from launcher.yamltext import to_yaml

__all__ = ["to_json", "to_yaml"]


def to_json(objects: list[Object]) -> str:
    """A v1 List, as `kubectl get -o json` gives."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2)
