"""Makes launcher/render/pytorchjob-v1.schema.json.gz: python tools/derive_crd.py CRD.yaml[.gz].

Keeps of the PyTorchJob CRD the structural schema of version v1 without what only people or the API
server read (descriptions, formats, defaults, list types), so that it loads in milliseconds. Licence
and origin stand in the NOTICE beside the output.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

OUTPUT = Path(__file__).parent.parent / "launcher" / "render" / "pytorchjob-v1.schema.json.gz"
KEPT = ("type", "required", "pattern", "x-kubernetes-int-or-string")


def reduce(node: dict[str, Any]) -> dict[str, Any]:
    """A schema with the keywords that `launcher.render.check` knows."""
    kept = {key: node[key] for key in KEPT if key in node}
    if "properties" in node:
        kept["properties"] = {name: reduce(child) for name, child in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            kept[key] = reduce(node[key])
    return kept


def main() -> None:
    source = Path(sys.argv[1])
    data = source.read_bytes()
    crd = yaml.safe_load(gzip.decompress(data) if source.suffix == ".gz" else data)
    served = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
    schema = reduce(served["schema"]["openAPIV3Schema"])
    text = json.dumps(schema, separators=(",", ":"), sort_keys=True).encode()
    OUTPUT.write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main()
