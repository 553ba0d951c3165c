"""k8s/ on a real API server: applied, applied again, and pods that come of it."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from launcher.render import render, to_yaml
from launcher.request import Request
from tests.charts import matches
from tests.cluster.cluster import running_cluster
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kustomized import (
    SYSTEM,
    TEAM,
    WAIT_S,
    apply,
    built,
    stored,
    wait_for_pods,
)
from tests.cluster.tools import ROOT, Unavailable
from tests.conftest import absent
from tests.unit.launcher.goldens import GIVEN, spec
from trainer.config import TrainConfig, describe

FOLDERS = ("base", "overlays/kind", "overlays/gpu", "overlays/kueue")
CONTROLLER = {"app.kubernetes.io/name": "launcher", "app.kubernetes.io/component": "controller"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the training operator and Kueue, apart from the other tests'."""
    try:
        folder = tmp_path_factory.mktemp("kustomize") / "state"
        with running_cluster(folder, with_queue=True) as running:
            yield running.plane
    except Unavailable as error:
        absent(str(error))


@pytest.fixture(scope="module")
def installed(cluster: ControlPlane) -> ControlPlane:
    """The cluster with k8s/base in it."""
    apply(cluster, "base")
    return cluster


# -- what is applied


@pytest.mark.parametrize("folder", FOLDERS)
def test_it_applies_and_a_second_time_changes_nothing(folder: str, installed: ControlPlane) -> None:
    text = apply(installed, folder)
    once = stored(installed, text)
    apply(installed, folder)
    assert stored(installed, text) == once
    assert len(once) == len(list(yaml.safe_load_all(text)))


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_deprecated_misspelt_or_secret(folder: str, installed: ControlPlane) -> None:
    text = built(installed, folder)
    flags = ("--dry-run=server", "--validate=strict", "--server-side", "-f", "-")
    done = subprocess.run(
        [str(installed.client), f"--kubeconfig={installed.kubeconfig}", "apply", *flags],
        input=text,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    objects = list(yaml.safe_load_all(text))
    assert [each["metadata"]["name"] for each in objects if each["kind"] == "Secret"] == []
    unmarked = [
        each["metadata"]["name"]
        for each in objects
        if each["metadata"]["labels"].get("app.kubernetes.io/part-of") != "webvision-suite"
    ]
    assert unmarked == []


def test_the_version_is_the_projects(installed: ControlPlane) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    objects = yaml.safe_load_all(built(installed, "base"))
    deployment = next(each for each in objects if each["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == f"launcher:{project['version']}"
    assert deployment["metadata"]["labels"]["app.kubernetes.io/version"] == project["version"]


def test_a_second_team_has_the_same_in_its_own_namespace(
    installed: ControlPlane, tmp_path: Path
) -> None:
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: vision\n"
        f"resources: [{os.path.relpath(ROOT / 'k8s/base/team', tmp_path)}]\n"
    )
    text = installed.kubectl("kustomize", str(tmp_path))
    objects = list(yaml.safe_load_all(text))
    assert {
        each["metadata"]["name"] if each["kind"] == "Namespace" else each["metadata"]["namespace"]
        for each in objects
    } == {"vision"}
    installed.kubectl("apply", "--server-side", "-f", "-", given=text)


# -- pods


def test_the_controllers_pods_are_let_into_a_restricted_namespace(
    installed: ControlPlane,
) -> None:
    apply(installed, "base")
    selector = ",".join(f"{key}={value}" for key, value in CONTROLLER.items())
    pods = wait_for_pods(installed, selector, 2, SYSTEM)
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"launcher-controller"}
    privileged = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": SYSTEM},
        "spec": {"containers": [{"name": "root", "image": "busybox"}]},
    }
    with pytest.raises(subprocess.CalledProcessError) as caught:
        installed.apply(privileged)
    assert 'violates PodSecurity "restricted:latest"' in caught.value.stderr


def test_the_operator_makes_a_jobs_pods_in_the_teams_namespace(installed: ControlPlane) -> None:
    apply(installed, "overlays/gpu")
    request = Request(model="senet154", name="restricted", gpus=16, namespace=TEAM, **GIVEN)
    installed.kubectl("create", "-f", "-", given=to_yaml(render(spec(request))))
    wait_for_pods(installed, "launcher.dev/job=restricted,app.kubernetes.io/component", 1, TEAM)
    pods = wait_for_pods(installed, "training.kubeflow.org/job-name=restricted", 2, TEAM)
    assert all(pod["spec"]["automountServiceAccountToken"] is False for pod in pods)
    installed.kubectl("-n", TEAM, "delete", "pytorchjob,job,service", "--all", "--wait=false")


def test_rdma_is_opted_into_for_the_jobs_namespace_only(
    installed: ControlPlane, tmp_path: Path
) -> None:
    base, component = (
        os.path.relpath(ROOT / "k8s" / each, tmp_path) for each in ("base", "components/rdma")
    )
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [{base}]\ncomponents: [{component}]\n"
    )
    level = "pod-security.kubernetes.io/enforce"
    assert {
        each["metadata"]["name"]: each["metadata"]["labels"][level]
        for each in yaml.safe_load_all(installed.kubectl("kustomize", str(tmp_path)))
        if each["kind"] == "Namespace"
    } == {SYSTEM: "restricted", TEAM: "privileged"}


def test_kueue_admits_a_job_to_the_overlays_queue(installed: ControlPlane) -> None:
    apply(installed, "overlays/kueue")
    for queue in ("clusterqueue/webvision-training", "localqueue/training"):
        wait = ("wait", "--for=condition=Active", queue, f"--timeout={WAIT_S:.0f}s")
        installed.kubectl("-n", TEAM, *wait)
    request = Request(
        model="senet154", name="queued", gpus=16, namespace=TEAM, queue="training", **GIVEN
    )
    job = next(each for each in render(spec(request)) if each["kind"] == "PyTorchJob")
    job["spec"]["runPolicy"]["suspend"] = True
    installed.kubectl("create", "-f", "-", given=to_yaml([job]))
    wait_for = "--for=jsonpath={.spec.runPolicy.suspend}=false"
    installed.kubectl("-n", TEAM, "wait", wait_for, "pytorchjob/queued", "--timeout=60s")
    installed.kubectl("-n", TEAM, "delete", "pytorchjob", "queued", "--wait=false")


# -- network


def test_policies_find_the_pods_that_they_are_about(installed: ControlPlane) -> None:
    objects = list(yaml.safe_load_all(built(installed, "base")))
    policies = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): each["spec"]
        for each in objects
        if each["kind"] == "NetworkPolicy"
    }
    rendered = render(spec(Request(model="resnet18", name="a", **GIVEN)))
    worker = rendered[-1]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    rendezvous = rendered[0]["spec"]["template"]
    deployment = next(each for each in objects if each["kind"] == "Deployment")
    controller = deployment["spec"]["template"]
    found = {
        who: {name for name, policy in policies.items() if name[0] == namespace
              and matches(policy["podSelector"], template["metadata"]["labels"])}
        for who, namespace, template in (
            ("worker", TEAM, worker),
            ("rendezvous", TEAM, rendezvous),
            ("controller", SYSTEM, controller),
        )
    }  # fmt: skip
    job = {(TEAM, name) for name in ("default-deny", "job-pods", "job-metrics", "job-storage")}
    assert found == {
        "worker": job,
        "rendezvous": job,
        "controller": {(SYSTEM, "default-deny"), (SYSTEM, "launcher-controller")},
    }
    scrapers = policies[TEAM, "job-metrics"]["ingress"][0]
    port = next(row[2] for row in describe(TrainConfig) if row[0] == "log.metrics_port")
    assert [str(each["port"]) for each in scrapers["ports"]] == [port]
    assert matches(scrapers["from"][1]["podSelector"], controller["metadata"]["labels"])
    named = policies[SYSTEM, "launcher-controller"]["ingress"][0]["ports"][0]["port"]
    assert named in {port["name"] for port in controller["spec"]["containers"][0]["ports"]}


# -- documents


def test_the_document_tells_the_rights_that_there_are(installed: ControlPlane) -> None:
    text = (ROOT / "docs/install.md").read_text(encoding="utf-8").partition("<!-- rights -->")[2]
    head, _, *rows = (
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in text.strip().partition("\n\n")[0].splitlines()
    )
    told = {
        (role, row[0]): verbs
        for row in rows
        for role, verbs in zip(head[1:], row[1:], strict=True)
        if verbs
    }
    granted = {
        (role["metadata"]["name"], named(group, resource)): " ".join(rule["verbs"])
        for role in yaml.safe_load_all(built(installed, "base"))
        if role["kind"] in ("Role", "ClusterRole") and role["metadata"]["name"] in head
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert told == granted


def named(group: str, resource: str) -> str:
    """As kubectl writes it: pytorchjobs.kubeflow.org/scale."""
    name, slash, subresource = resource.partition("/")
    return f"{name}.{group}{slash}{subresource}" if group else resource


def test_budgets_are_opted_into_for_the_queue(installed: ControlPlane, tmp_path: Path) -> None:
    overlay, component = (
        os.path.relpath(ROOT / "k8s" / each, tmp_path)
        for each in ("overlays/kueue", "components/kueue-budget")
    )
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [{overlay}]\ncomponents: [{component}]\n"
    )
    made = [
        each
        for each in yaml.safe_load_all(installed.kubectl("kustomize", str(tmp_path)))
        if each["kind"] in ("AdmissionCheck", "ClusterQueue", "ResourceFlavor")
    ]
    installed.kubectl("apply", "--server-side", "-f", "-", given=to_yaml(made))
    try:
        wait = ("wait", "clusterqueue/webvision-training", f"--timeout={WAIT_S:.0f}s")
        installed.kubectl(*wait, "--for=condition=Active=False")
        queue = json.loads(
            installed.kubectl("get", "clusterqueue", "webvision-training", "-o", "json")
        )
        (active,) = [each for each in queue["status"]["conditions"] if each["type"] == "Active"]
        assert active["reason"] == "AdmissionCheckInactive", "nobody keeps budgets here"
    finally:
        apply(installed, "overlays/kueue")
        change = '{"spec": {"admissionChecksStrategy": null}}'
        installed.kubectl(
            "patch", "clusterqueue", "webvision-training", "--type=merge", "-p", change
        )
        installed.kubectl("delete", "admissioncheck", "webvision-budget")
