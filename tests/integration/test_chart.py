"""The chart under real Helm 3 and 4, without a cluster: what it renders, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from launcher.render import render
from launcher.request import Request
from tests.charts import (
    CHART,
    EVERYTHING,
    MATRIX,
    MONITORING,
    NOTHING,
    Object,
    matches,
    of_kind,
    pods,
    program,
    rendered,
    run,
)
from tests.cluster.tools import ROOT
from tests.unit.launcher.goldens import GIVEN, spec
from tools import docs, manifests


@pytest.fixture(params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest) -> Path:
    """The program of each Helm in turn."""
    return program(request.param)


# -- what it renders


@pytest.mark.parametrize("name", MATRIX)
def test_it_lints(name: str, helm: Path) -> None:
    assert "0 chart(s) failed" in run(helm, "lint", "--strict", str(CHART), values=MATRIX[name])


@pytest.mark.parametrize("name", MATRIX)
def test_every_object_is_named_once_and_labelled(name: str, helm: Path) -> None:
    objects = rendered(helm, MATRIX[name], MONITORING)
    known = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in objects
    ]
    assert [key for key, number in Counter(known).items() if number > 1] == []
    for each in objects:
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "launcher", each["metadata"]
        assert labels["app.kubernetes.io/part-of"] == "webvision-suite"
        assert all(isinstance(value, str) for value in labels.values())
    assert of_kind(objects, "Secret") == []


@pytest.mark.parametrize("name", MATRIX)
def test_both_helms_render_the_same(name: str) -> None:
    three, four = (rendered(program(each), MATRIX[name], MONITORING) for each in ("helm3", "helm4"))
    assert three == four
    assert len(three) > 8


@pytest.mark.parametrize("name", MATRIX)
def test_pods_keep_to_the_level_restricted(name: str, helm: Path) -> None:
    found = list(pods(rendered(helm, MATRIX[name])))
    assert len(found) == 2  # the controller's and the test's
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_values_arrive_where_they_belong(helm: Path) -> None:
    objects = rendered(helm, EVERYTHING, MONITORING)
    (deployment,) = of_kind(objects, "Deployment")
    assert deployment["metadata"]["name"] == "gpu-controller"
    assert deployment["spec"]["replicas"] == 3
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example/launcher@sha256:" + "0" * 64
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["AWS_ENDPOINT_URL"] == "http://minio.ml:9000"
    assert environment["AWS_DEFAULT_REGION"] == "eu-1"
    assert container["args"][-5:] == [
        "--metrics-port=8080",
        "--ledger=s3://team/ledger",
        "--cluster=dc1",
        "--no-finalizers",
        "--node-grace=90s",
    ]
    for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod[key] == EVERYTHING["controller"][key]
    levels = {
        each["metadata"]["name"]: each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for each in of_kind(objects, "Namespace")
    }
    assert levels == {"vision": "restricted", "fabric": "privileged"}
    accounts = {each["metadata"]["namespace"] for each in of_kind(objects, "ServiceAccount")}
    assert accounts == {"webvision-system", "vision", "fabric", "old"}
    for kind in ("ServiceMonitor", "PodMonitor"):
        (monitor,) = of_kind(objects, kind)
        assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_what_is_switched_off_is_not_there(helm: Path) -> None:
    kinds = {each["kind"] for each in rendered(helm, NOTHING, MONITORING)}
    assert not kinds & {"CustomResourceDefinition", "PriorityClass", "NetworkPolicy", "ConfigMap"}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
    assert "Deployment" in kinds


def test_without_a_ledger_nothing_is_said_of_it(helm: Path) -> None:
    (deployment,) = of_kind(rendered(helm), "Deployment")
    args = " ".join(deployment["spec"]["template"]["spec"]["containers"][0]["args"])
    assert "ledger" not in args
    assert "finalizers" not in args


def test_the_operators_kinds_are_left_out_where_it_is_not(helm: Path) -> None:
    groups = {each["apiVersion"] for each in rendered(helm)}
    assert "monitoring.coreos.com/v1" not in groups
    assert "monitoring.coreos.com/v1" in {
        each["apiVersion"] for each in rendered(helm, None, MONITORING)
    }


def test_what_jobs_and_budgets_hang_on_stays(helm: Path) -> None:
    kept = [
        (each["kind"], each["metadata"]["name"])
        for each in rendered(helm, {"teams": [{"namespace": "vision"}]})
        if each["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    ]
    assert sorted(kept) == [
        ("CustomResourceDefinition", "budgets.launcher.dev"),
        ("Namespace", "vision"),
    ]


def test_an_old_kubernetes_is_refused(helm: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        rendered(helm, None, "--kube-version=1.29.0")
    assert ">=1.30.0-0" in caught.value.stderr
    assert rendered(helm, None, "--kube-version=1.34.4-eks-1")


def test_monitors_and_policies_find_what_they_are_about(helm: Path) -> None:
    objects = rendered(helm, {"networkPolicy": {"defaultDeny": True}}, MONITORING)
    (service,) = of_kind(objects, "Service")
    (deployment,) = of_kind(objects, "Deployment")
    (test,) = of_kind(objects, "Pod")
    job = render(spec(Request(model="resnet18", name="a", **GIVEN)))[-1]
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    (monitor,) = of_kind(objects, "ServiceMonitor")
    assert matches(monitor["spec"]["selector"], service["metadata"]["labels"])
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    (monitor,) = of_kind(objects, "PodMonitor")
    assert matches(monitor["spec"]["selector"], worker["metadata"]["labels"])
    ports = {port["name"] for port in worker["spec"]["containers"][0]["ports"]}
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in ports
    labels = {
        "controller": deployment["spec"]["template"]["metadata"]["labels"],
        "test": test["metadata"]["labels"],
    }
    found = {
        who: {
            policy["metadata"]["name"]
            for policy in of_kind(objects, "NetworkPolicy")
            if matches(policy["spec"]["podSelector"], borne)
        }
        for who, borne in labels.items()
    }
    assert found == {
        "controller": {"default-deny", "launcher-controller", "launcher-test-in"},
        "test": {"default-deny", "launcher-test-out"},
    }
    selector = {"matchLabels": service["spec"]["selector"]}
    assert [who for who in labels if matches(selector, labels[who])] == ["controller"]


# -- rules and dashboards


DASHBOARD = '{\n  "title": "Größe <b>{{ legend }}</b> & \\"$var\\"",\n  "uid": "planted"\n}\n'
RULES = """# Comments stay out of the way.
groups:
- name: planted
  rules:
  - alert: Planted
    expr: 'up{job=~"a|b"} < 1'
    labels: {severity: page}
    annotations:
      summary: "{{ $labels.budget }} has {{ $value | humanizePercentage }} left"
      description: |
        {{ if gt $value 1.0 }}above{{ end }}
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """The chart with a rule and a dashboard of ours, and tests of rules, beside its own."""
    chart = Path(shutil.copytree(CHART, tmp_path / "launcher"))
    for path, text in {
        "rules/planted.yaml": RULES,
        "rules/tests/planted.yaml": "rule_files: [never]\n",
        "rules/planted.test.yaml": "rule_files: [never]\n",
        "examples/alertmanager.yaml": "never: true\n",
        "dashboards/planted.json": DASHBOARD,
        "dashboards/planted.py": "never\n",
    }.items():
        (chart / path).parent.mkdir(parents=True, exist_ok=True)
        (chart / path).write_text(text, encoding="utf-8")
    return chart


def test_rules_arrive_as_they_are(helm: Path, planted: Path) -> None:
    values = {"metrics": {"labels": {"release": "stack"}}}
    objects = of_kind(rendered(helm, values, MONITORING, chart=planted), "PrometheusRule")
    assert {each["metadata"]["name"]: each["spec"] for each in objects} == {
        f"launcher-{path.stem}": yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (planted / "rules").glob("*.yaml")
        if ".test" not in path.name
    }
    assert "launcher-planted" in {each["metadata"]["name"] for each in objects}
    assert {each["metadata"]["labels"]["release"] for each in objects} == {"stack"}


def test_dashboards_arrive_byte_for_byte(helm: Path, planted: Path) -> None:
    objects = of_kind(rendered(helm, chart=planted), "ConfigMap")
    arrived = {name: text for each in objects for name, text in each["data"].items()}
    assert arrived == {
        path.name: path.read_text(encoding="utf-8")
        for path in (planted / "dashboards").glob("*.json")
    }
    assert arrived["planted.json"] == DASHBOARD
    for each in objects:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert each["metadata"]["annotations"]["grafana_folder"] == "WebVision"
        assert len(json.dumps(each).encode()) < 1 << 20


def test_the_package_has_what_is_installed_only(helm: Path, planted: Path, tmp_path: Path) -> None:
    subprocess.run(
        [str(helm), "package", str(planted), f"--destination={tmp_path}"],
        check=True,
        capture_output=True,
    )
    (archive,) = tmp_path.glob("*.tgz")
    assert archive.name == f"launcher-{version()}.tgz"
    names = subprocess.run(
        ["tar", "-tzf", str(archive)], check=True, capture_output=True, text=True
    ).stdout.split()
    assert {"launcher/rules/planted.yaml", "launcher/dashboards/planted.json"} <= set(names)
    assert [name for name in names if "test.yaml" in name or "examples" in name] == []
    assert "launcher/rules/tests/planted.yaml" not in names
    # A release is a Secret, which may have 1 MiB; it holds the chart compressed, and its objects.
    assert archive.stat().st_size < 400_000


# -- values


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"replicas": 2}, "replicas"),
        ({"controller": {"replica": 2}}, "replica"),
        ({"controller": {"replicas": "2"}}, "integer"),
        ({"controller": {"extraArgs": ["node-grace"]}}, "extraArgs"),
        ({"controller": {"resources": {"limit": {}}}}, "limit"),
        ({"image": {"tag": "a b"}}, "tag"),
        ({"image": {"digest": "sha256:0"}}, "digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"ledger": {"adress": "s3://a/b"}}, "adress"),
        ({"ledger": {"address": "http://a/b"}}, "address"),
        ({"ledger": {"cluster": "DC 1"}}, "cluster"),
        ({"ledger": {"finalizers": "no"}}, "finalizers"),
        ({"objectStore": {"accessKey": "A"}}, "accessKey"),
        ({"objectStore": {"endpoint": "http://user:secret@store"}}, "endpoint"),
        ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "interval"),
        ({"metrics": {"labels": {"release": 1}}}, "release"),
        ({"teams": ["vision"]}, "teams"),
        ({"teams": [{"name": "vision"}]}, "namespace"),
        ({"teams": [{"namespace": "vision", "podSecurity": "lax"}]}, "podSecurity"),
    ],
    ids=json.dumps,
)
def test_what_is_mistyped_is_refused(values: Object, told: str, helm: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        rendered(helm, values)
    assert told in caught.value.stderr


def schema() -> Object:
    found: Object = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return found


def test_the_schema_is_closed_and_knows_every_value() -> None:
    jsonschema.Draft7Validator.check_schema(schema())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema()).validate(defaults)

    def below(node: Object, path: str) -> Iterator[str]:
        """Closed to what is not known, at each level; gives what people may set."""
        node = schema()["definitions"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        for name, child in node.get("properties", {}).items():
            yield from below(child, f"{path}.{name}".strip("."))
        if "properties" in node:
            assert node["additionalProperties"] is False, path
        if "properties" not in node or path in documented:
            yield path

    documented = {key for key, *_ in docs.chart_values()}
    settable = {key for key in below(schema(), "") if key.rpartition(".")[0] not in documented}
    assert settable - {"global"} == documented


def test_every_value_is_set_or_switched_somewhere() -> None:
    def leaves(node: Any, path: str = "") -> Iterator[str]:
        if isinstance(node, dict) and path not in documented:
            for name, child in node.items():
                yield from leaves(child, f"{path}.{name}".strip("."))
        else:
            yield path

    documented = {key for key, *_ in docs.chart_values()}
    tried = {*leaves(EVERYTHING), *leaves(NOTHING)}
    assert documented - tried == {
        "image.tag",
        "metrics.serviceMonitor.interval",
        "metrics.podMonitor.interval",
    }


# -- kustomize's half, and the version


def version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def test_the_charts_versions_are_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["apiVersion"], chart["version"]) == ("v2", version())
    assert chart["appVersion"] == version()


def test_kustomize_has_what_the_chart_makes() -> None:
    program("helm4")
    for path, text in manifests.made().items():
        said = f"{path.relative_to(ROOT)} is out of date: change charts/launcher; make manifests"
        assert path.read_text(encoding="utf-8") == text, said


def test_kustomize_has_all_that_the_chart_makes_for_one_team(helm: Path) -> None:
    def known(objects: list[Object]) -> list[tuple[str, str, str]]:
        return sorted(
            (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
            for each in objects
        )

    written = [
        each
        for path in manifests.made()
        if "base" in path.parts
        for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]
    templated = [each for each in yaml.safe_load_all(manifests.template(helm)) if each]
    assert known(written) == known(templated)
    text = "".join(path.read_text(encoding="utf-8") for path in manifests.made())
    assert "helm.sh" not in text
