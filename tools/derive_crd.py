"""Makes launcher/render/*.schema.json.gz of the CRDs in k8s/base/crds: python -m tools.derive_crd.

Keeps of each CRD the structural schema of the served version without what only people or the API
server read (descriptions, formats, defaults, list types), so that it loads in milliseconds. Licence
and origin stand in the NOTICE beside the outputs.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CRDS = ROOT / "k8s" / "base" / "crds"
OUTPUTS = ROOT / "launcher" / "render"
SOURCES = {
    "kubeflow.org_pytorchjobs": "v1",
    "trainer.kubeflow.org_trainjobs": "v1alpha1",
    "trainer.kubeflow.org_trainingruntimes": "v1alpha1",
}
"""The CRDs of what `launcher.render` makes, with the version it uses."""
KEPT = ("type", "required", "pattern", "enum", "minimum", "x-kubernetes-int-or-string")


def reduce(node: dict[str, Any]) -> dict[str, Any]:
    """A schema with the keywords that `launcher.render.check` knows."""
    kept = {key: node[key] for key in KEPT if key in node}
    if "properties" in node:
        kept["properties"] = {name: reduce(child) for name, child in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            kept[key] = reduce(node[key])
    return kept


def derive(source: Path, version: str) -> tuple[str, bytes]:
    """Name and text of the reduced schema of a CRD."""
    crd = yaml.load(gzip.decompress(source.read_bytes()), Loader=yaml.CSafeLoader)
    served = next(each for each in crd["spec"]["versions"] if each["name"] == version)
    schema = reduce(served["schema"]["openAPIV3Schema"])
    name = f"{crd['spec']['names']['kind'].lower()}-{version}.schema.json.gz"
    return name, json.dumps(schema, separators=(",", ":"), sort_keys=True).encode()


def main() -> None:
    for source, version in SOURCES.items():
        name, text = derive(CRDS / f"{source}.yaml.gz", version)
        (OUTPUTS / name).write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main()
