"""Who may what in k8s/, asked and tried with each role's own token on a real API server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from launcher.render import render, to_yaml
from launcher.request import Request
from tests.cluster.cluster import running_cluster
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kustomized import (
    SYSTEM,
    TEAM,
    WAIT_S,
    Object,
    Person,
    apply,
    built,
    wait_for_pods,
)
from tests.cluster.tools import Unavailable
from tests.conftest import absent
from tests.servers import free_ports
from tests.unit.launcher.goldens import GIVEN, spec

OTHER = "elsewhere"
"""A namespace of somebody else."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster of its own, since other tests make roles of the same names, with k8s/base in it."""
    try:
        with running_cluster(tmp_path_factory.mktemp("rights") / "state") as cluster:
            apply(cluster.plane, "base")
            cluster.plane.kubectl("create", "namespace", OTHER)
            yield cluster.plane
    except Unavailable as error:
        absent(str(error))


@pytest.fixture(scope="module")
def people(installed: ControlPlane) -> dict[str, Person]:
    """One of each role; the debugger has launcher-user as well, as the document says."""
    roles = {
        "viewer": ["launcher-viewer"],
        "user": ["launcher-user"],
        "debugger": ["launcher-user", "launcher-debugger"],
    }
    for name, its_roles in roles.items():
        installed.kubectl("-n", TEAM, "create", "serviceaccount", name)
        for role in its_roles:
            account = f"--serviceaccount={TEAM}:{name}"
            installed.kubectl(
                "-n", TEAM, "create", "rolebinding", f"{name}-{role}", f"--role={role}", account
            )
    accounts = {name: (TEAM, name) for name in (*roles, "trainer")}
    accounts["controller"] = (SYSTEM, "launcher-controller")
    return {
        who: Person(installed, installed.kubectl("-n", place, "create", "token", name).strip())
        for who, (place, name) in accounts.items()
    }


ALL = ("viewer", "user", "debugger", "controller", "trainer")
SEES = ("viewer", "user", "debugger", "controller")
USES = ("user", "debugger")
NOBODY: tuple[str, ...] = ()
RIGHTS: dict[str, tuple[str, ...]] = {
    "get pytorchjobs.kubeflow.org": SEES,
    "list pytorchjobs.kubeflow.org": SEES,
    "watch pytorchjobs.kubeflow.org": SEES,
    "create pytorchjobs.kubeflow.org": USES,
    "patch pytorchjobs.kubeflow.org": (*USES, "controller"),
    "delete pytorchjobs.kubeflow.org": (*USES, "controller"),
    "deletecollection pytorchjobs.kubeflow.org": NOBODY,
    "patch pytorchjobs.kubeflow.org/status": NOBODY,
    "get pytorchjobs.kubeflow.org/scale": ("viewer", *USES),
    "patch pytorchjobs.kubeflow.org/scale": USES,
    "create trainjobs.trainer.kubeflow.org": USES,
    "list trainjobs.trainer.kubeflow.org": ("viewer", *USES),
    "get pods": SEES,
    "list pods": SEES,
    "watch pods": SEES,
    "create pods": NOBODY,
    "patch pods": ("controller",),
    "delete pods": (*USES, "controller"),
    "patch pods/status": ("controller",),
    "get pods/log": ("viewer", *USES),
    "create pods/exec": ("debugger",),
    "get pods/exec": ("debugger",),
    "create pods/attach": NOBODY,
    "create pods/portforward": NOBODY,
    "patch pods/ephemeralcontainers": NOBODY,
    "list events": ("viewer", *USES),
    "create events": ("controller",),
    "get jobs.batch": SEES,
    "create jobs.batch": USES,
    "patch jobs.batch": (*USES, "controller"),
    "delete jobs.batch": (*USES, "controller"),
    "list services": SEES,
    "create services": USES,
    "patch services": (*USES, "controller"),
    "delete services": USES,
    "list workloads.kueue.x-k8s.io": SEES,
    "patch workloads.kueue.x-k8s.io": (*USES, "controller"),
    "delete workloads.kueue.x-k8s.io": NOBODY,
    "patch workloads.kueue.x-k8s.io/status": ("controller",),
    "list admissionchecks.kueue.x-k8s.io": ("controller",),
    "patch admissionchecks.kueue.x-k8s.io": NOBODY,
    "patch admissionchecks.kueue.x-k8s.io/status": ("controller",),
    "patch clusterqueues.kueue.x-k8s.io": NOBODY,
    "patch budgets.launcher.dev": NOBODY,
    "get secrets": NOBODY,
    "list secrets": NOBODY,
    "get configmaps": NOBODY,
    "create serviceaccounts/token": NOBODY,
    "impersonate serviceaccounts": NOBODY,
    "create rolebindings.rbac.authorization.k8s.io": NOBODY,
    "patch namespaces": NOBODY,
    "patch resourcequotas": NOBODY,
    "patch networkpolicies.networking.k8s.io": NOBODY,
    "patch deployments.apps": NOBODY,
    "patch nodes": NOBODY,
    "get leases.coordination.k8s.io": NOBODY,
}
"""Each call in the team's namespace, and who may."""


@pytest.mark.parametrize("call", RIGHTS)
def test_who_may_what_in_the_teams_namespace(call: str, people: dict[str, Person]) -> None:
    assert tuple(who for who in ALL if people[who].may(call, TEAM)) == tuple(
        who for who in ALL if who in RIGHTS[call]
    )


@pytest.mark.parametrize("call", RIGHTS)
def test_rights_end_with_the_namespace_but_for_the_controller(
    call: str, people: dict[str, Person]
) -> None:
    allowed = {who for who in ALL if people[who].may(call, OTHER)}
    assert allowed == {"controller"} & set(RIGHTS[call])


def test_the_controller_leads_by_a_lease_of_its_own_namespace(people: dict[str, Person]) -> None:
    lease = "leases.coordination.k8s.io"
    verbs = ("get", "create", "update", "patch", "delete")
    own = [verb for verb in verbs if people["controller"].may(f"{verb} {lease}", SYSTEM)]
    assert own == ["get", "create", "update"]
    assert people["controller"].may("list nodes", "")
    assert not people["user"].may("list nodes", "")


def test_the_controller_keeps_the_status_of_budgets_and_no_more(people: dict[str, Person]) -> None:
    for verb, resource, is_allowed in (
        ("list", "budgets.launcher.dev", True),
        ("watch", "budgets.launcher.dev", True),
        ("patch", "budgets.launcher.dev/status", True),
        ("update", "budgets.launcher.dev/status", True),
        ("patch", "budgets.launcher.dev", False),
        ("delete", "budgets.launcher.dev", False),
    ):
        assert people["controller"].may(f"{verb} {resource}", "") is is_allowed


def test_whoever_is_bound_to_budgets_holds_time_or_sets_them(installed: ControlPlane) -> None:
    verbs = ("get", "list", "watch", "create", "patch", "update", "delete", "deletecollection")
    found = {}
    for role in ("launcher-budget-user", "launcher-budget-owner"):
        account = f"--serviceaccount={TEAM}:{role}"
        installed.kubectl("-n", TEAM, "create", "serviceaccount", role)
        installed.kubectl("create", "clusterrolebinding", role, f"--clusterrole={role}", account)
        token = installed.kubectl("-n", TEAM, "create", "token", role).strip()
        person = Person(installed, token)
        found[role] = [
            tuple(verb for verb in verbs if person.may(f"{verb} budgets.launcher.dev{part}", ""))
            for part in ("", "/status")
        ]
    assert found == {
        "launcher-budget-user": [verbs[:3], ("get", "patch")],
        "launcher-budget-owner": [verbs[:7], ("get", "patch")],
    }


def test_no_rule_has_a_wildcard_or_a_secret(people: dict[str, Person]) -> None:
    for who, person in people.items():
        for namespace in (TEAM, SYSTEM):
            status = person.review("SelfSubjectRulesReview", {"namespace": namespace})
            assert status["incomplete"] is False
            for rule in status["resourceRules"]:
                named = {*rule["verbs"], *rule["apiGroups"], *rule["resources"]}
                assert "*" not in named, (who, rule)
                assert not [each for each in named if each.startswith("secret")], (who, rule)


def test_calls_are_answered_as_the_reviews_say(people: dict[str, Person]) -> None:
    text = to_yaml(render(spec(Request(model="resnet18", name="mine", namespace=TEAM, **GIVEN))))
    people["user"].kubectl("create", "-f", "-", given=text)
    here = ("-n", TEAM)
    assert "mine" in people["viewer"].kubectl(*here, "get", "pytorchjobs", "-o", "name")
    assert "forbidden" in people["viewer"].refused(*here, "delete", "pytorchjob", "mine")
    assert "forbidden" in people["user"].refused(*here, "get", "secrets")
    assert "forbidden" in people["user"].refused("-n", OTHER, "get", "pytorchjobs")
    assert "forbidden" in people["trainer"].refused(*here, "get", "pods")
    people["user"].kubectl(*here, "scale", "pytorchjob", "mine", "--replicas=2")
    # No node runs the pod: who may is told that, and who may not is told so.
    wait_for_pods(people["user"].plane, "training.kubeflow.org/job-name=mine", 2, TEAM)
    run = (*here, "exec", "mine-worker-0", "--", "true")
    assert "forbidden" in people["user"].refused(*run)
    assert "does not have a host assigned" in people["debugger"].refused(*run)
    note = ("annotate", "pytorchjob", "mine", "launcher.dev/controller={}")
    people["controller"].kubectl(*here, *note)
    assert "forbidden" in people["controller"].refused(*here, "get", "secrets")
    people["user"].kubectl(*here, "delete", "pytorchjob,job,service", "mine", "--ignore-not-found")
    people["user"].kubectl(*here, "delete", "job,service", "mine-rendezvous")


def test_a_token_is_needed(installed: ControlPlane) -> None:
    stranger = Person(installed, "nobodys-token")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stranger.review("SelfSubjectRulesReview", {"namespace": TEAM})


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def container_of_the_deployment(plane: ControlPlane) -> Object:
    objects = yaml.safe_load_all(built(plane, "base"))
    deployment = next(each for each in objects if each["kind"] == "Deployment")
    container: Object = deployment["spec"]["template"]["spec"]["containers"][0]
    return container


@contextlib.contextmanager
def controller(person: Person, folder: Path) -> Iterator[Path]:
    """Runs what the Deployment runs, with the person's token; gives its log. It ends with 0."""
    container = container_of_the_deployment(person.plane)
    (port,) = free_ports(1)
    line = " ".join(container["args"])
    values = {"$(POD_NAMESPACE)": SYSTEM, "$(POD_NAME)": "me", "port=8080": f"port={port}"}
    for name, value in values.items():
        assert name in line
        line = line.replace(name, value)
    config = yaml.safe_load(person.plane.kubeconfig.read_text(encoding="utf-8"))
    config["users"][0]["user"] = {"token": person.token}
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    log = folder / "log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher", *line.split()],
            env=os.environ | {"KUBECONFIG": str(folder / "kubeconfig")},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        probes = [
            container[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness")
        ]
        ends_at = time.monotonic() + WAIT_S
        while not all(answers(f"http://127.0.0.1:{port}{path}") for path in probes):
            assert time.monotonic() < ends_at, log.read_text()
            time.sleep(0.2)
        yield log
    finally:
        process.terminate()
        code = process.wait(WAIT_S)
    assert code == 0, log.read_text()


def test_the_controller_works_with_the_deployments_arguments_and_its_own_rights(
    people: dict[str, Person], installed: ControlPlane, tmp_path: Path
) -> None:
    text = to_yaml(render(spec(Request(model="resnet18", name="seen", namespace=TEAM, **GIVEN))))
    people["user"].kubectl("create", "-f", "-", given=text)
    with controller(people["controller"], tmp_path) as log:
        # The rendezvous was applied by hand: its adoption needs rights on three kinds.
        adopted = "--for=jsonpath={.metadata.ownerReferences[0].name}=seen"
        for helper in ("job", "service"):
            wait = ("wait", adopted, f"{helper}/seen-rendezvous", "--timeout=60s")
            installed.kubectl("-n", TEAM, *wait)
        holder = ("get", "lease", "launcher-controller", "-o", "jsonpath={.spec.holderIdentity}")
        assert installed.kubectl("-n", SYSTEM, *holder) == "me"
    assert "orbidden" not in log.read_text()
