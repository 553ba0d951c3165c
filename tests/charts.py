"""The chart and the real Helm 3 and 4, for the tests of both."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.tools import ROOT, Unavailable, packaged
from tests.conftest import absent

CHART = ROOT / "charts/launcher"
MONITORING = "--api-versions=monitoring.coreos.com/v1"
Object = dict[str, Any]

EVERYTHING: Object = {
    "fullnameOverride": "gpu",
    "commonLabels": {"cost-centre": "42"},
    "image": {
        "repository": "registry.example/launcher",
        "digest": "sha256:" + "0" * 64,
        "pullPolicy": "Always",
        "pullSecrets": ["registry"],
    },
    "controller": {
        "replicas": 3,
        "extraArgs": ["--node-grace=90s"],
        "extraEnv": [{"name": "AWS_CA_BUNDLE", "value": "/trust/ca.crt"}],
        "extraVolumes": [{"name": "trust", "configMap": {"name": "trust"}}],
        "extraVolumeMounts": [{"name": "trust", "mountPath": "/trust", "readOnly": True}],
        "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "1.5Gi"}},
        "podLabels": {"azure.workload.identity/use": "true"},
        "podAnnotations": {"example.com/roll": "1"},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {}},
    },
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/l"}},
    "ledger": {"address": "s3://team/ledger", "cluster": "dc1", "finalizers": False},
    "objectStore": {"secret": "s3", "endpoint": "http://minio.ml:9000", "region": "eu-1"},
    "networkPolicy": {
        "defaultDeny": True,
        "monitoringNamespace": "observability",
        "extraEgress": [{"ports": [{"port": 9000}]}],
    },
    "metrics": {"labels": {"release": "kube-prometheus-stack"}},
    "dashboards": {"labels": {"grafana_dashboard": "1", "team": "ml"}, "annotations": {}},
    "teams": [
        {"namespace": "vision", "serviceAccountAnnotations": {"example.com/role": "trainer"}},
        {"namespace": "fabric", "podSecurity": "privileged"},
        {"namespace": "old", "create": False},
    ],
}
"""Each value set to something else than its default, but for the switches."""
NOTHING: Object = {
    "crds": {"enabled": False},
    "priorityClasses": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "metrics": {
        "serviceMonitor": {"enabled": False},
        "podMonitor": {"enabled": False},
        "rules": {"enabled": False},
    },
    "dashboards": {"enabled": False},
    "teams": [{"namespace": "vision"}],
}
"""Whatever can be left out, left out."""
MATRIX: dict[str, Object] = {"defaults": {}, "everything": EVERYTHING, "nothing": NOTHING}


def program(name: str) -> Path:
    try:
        return packaged(name)
    except Unavailable as error:
        absent(str(error))
        raise


def run(helm: Path, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
    """What Helm prints; values: None where the verb takes none. Raises CalledProcessError."""
    flags = () if values is None else ("--values=-",)
    done = subprocess.run(
        [str(helm), *arguments, *flags],
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
    )
    try:
        done.check_returncode()
    except subprocess.CalledProcessError as error:
        error.add_note(done.stdout + done.stderr)
        raise
    return done.stdout


def rendered(
    helm: Path, values: Mapping[str, Any] | None = None, *flags: str, chart: Path = CHART
) -> list[Object]:
    """The objects of a release that is called launcher."""
    flags = ("--namespace=webvision-system", *flags)
    text = run(helm, "template", "launcher", str(chart), *flags, values=values or {})
    return [each for each in yaml.load_all(text, Loader=Unique) if each]


class Unique(yaml.CSafeLoader):
    """Refuses what gives a key twice, as the API server's strict validation does."""


def _mapping(loader: Unique, node: yaml.MappingNode, deep: bool = False) -> Object:
    twice = [
        key for key, number in Counter(key.value for key, _ in node.value).items() if number > 1
    ]
    assert twice == [], f"{twice} twice, {node.start_mark}"
    return {str(key): value for key, value in loader.construct_mapping(node, deep=True).items()}


Unique.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def pods(objects: list[Object]) -> Iterator[Object]:
    """The specs of all pods that come of the objects."""
    for each in objects:
        if each["kind"] == "Pod":
            yield each["spec"]
        elif "template" in each.get("spec", {}):
            yield each["spec"]["template"]["spec"]


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector of the two forms that we use finds the labels."""
    wanted = selector.get("matchLabels", {})
    keys = selector.get("matchExpressions", [])
    assert all(each["operator"] == "Exists" for each in keys)
    return wanted.items() <= labels.items() and all(each["key"] in labels for each in keys)
