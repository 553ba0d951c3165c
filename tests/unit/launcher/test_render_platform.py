"""What each key of the platform leads to, in the workers' pods and in the rendezvous'."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.render import pod_templates, problems, render, to_yaml
from launcher.request import Request
from launcher.resolve import resolve
from launcher.settings import KEYS, Setting, Settings
from launcher.spec import (
    DEADLINE_ANNOTATION,
    HANG_ANNOTATION,
    RESTART_WINDOW_ANNOTATION,
    RESTARTS_ALLOWED_ANNOTATION,
)
from tests.unit.launcher.goldens import GIVEN, spec
from tests.unit.launcher.render_matrix import OPTIONS, chosen, needs_privilege, rows

Pod = dict[str, Any]
EVERYTHING = [
    word for choices in OPTIONS.values() for word in choices[-1] if word.startswith("job.")
]
"""The last choice of every option."""
GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def objects(*overrides: str, **said: Any) -> list[dict[str, Any]]:
    asked = {"model": "senet154", "name": "a", "gpus": 64} | GIVEN | said
    return render(spec(Request(**asked, overrides=overrides)))


def pods(*overrides: str, **said: Any) -> tuple[Pod, Pod]:
    """The pod templates of a worker and of the rendezvous."""
    rendezvous, _, job = objects(*overrides, **said)
    return next(pod_templates(job))[1], next(pod_templates(rendezvous))[1]


def variables(template: Pod) -> dict[str, Any]:
    env = template["spec"]["containers"][0]["env"]
    found = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in env}
    assert len(found) == len(env), "a variable stands twice"
    return found


def test_the_matrix_has_each_pair_of_choices_in_some_job() -> None:
    met = {
        ((a, x), (b, y))
        for row in rows()
        for a, x in enumerate(row)
        for b, y in enumerate(row)
        if a < b
    }
    sizes = [len(choices) for choices in OPTIONS.values()]
    pairs = sum(x * y for at, x in enumerate(sizes) for y in sizes[at + 1 :])
    assert len(met) == pairs
    assert {chosen(row)["fabric"] for row in rows() if needs_privilege(row)} == {1, 3}


def test_both_pods_get_their_image_and_the_users_tolerations() -> None:
    for template in pods(
        "job.image_pull_secrets=[one,two]",
        "job.image_pull_policy=IfNotPresent",
        "job.tolerations=[spot:NoSchedule,team=vision]",
        "job.priority_class=high",
    ):
        pod = template["spec"]
        assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
        assert pod["containers"][0]["imagePullPolicy"] == "IfNotPresent"
        assert pod["priorityClassName"] == "high"
        assert pod["tolerations"][-2:] == [
            {"key": "spot", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "team", "operator": "Equal", "value": "vision"},
        ]
    worker, rendezvous = pods("job.tolerations=[nvidia.com/gpu:NoSchedule]")
    assert worker["spec"]["tolerations"] == [GPU_TOLERATION], "not twice"
    assert rendezvous["spec"]["tolerations"] == [GPU_TOLERATION]


def test_the_rendezvous_has_neither_gpus_nor_rights_nor_quota() -> None:
    plain = pods()[1]
    asked = pods(*EVERYTHING, queue="train")[1]
    grown = {key for key in asked["spec"] if asked["spec"][key] != plain["spec"].get(key)}
    # The last choice of "nodes" has no toleration.
    assert grown == {"containers", "imagePullSecrets", "priorityClassName"}
    assert asked["metadata"] == plain["metadata"]
    container = asked["spec"]["containers"][0]
    assert container.pop("imagePullPolicy") == "Always"
    assert container == plain["spec"]["containers"][0]


def test_kueue_is_told_by_labels_and_never_suspended_by_us() -> None:
    asked = ("job.kueue.priority_class=high", "job.deadline_s=3600")
    job = objects(*asked, queue="train")[2]
    labels = {k: v for k, v in job["metadata"]["labels"].items() if k.startswith("kueue")}
    assert labels == {
        "kueue.x-k8s.io/queue-name": "train",
        "kueue.x-k8s.io/priority-class": "high",
        "kueue.x-k8s.io/max-exec-time-seconds": "3600",
    }
    assert "suspend" not in to_yaml([job])
    own = objects(*asked, "job.kueue.max_exec_time_s=60", queue="train")[2]["metadata"]["labels"]
    assert own["kueue.x-k8s.io/max-exec-time-seconds"] == "60"
    assert "kueue" not in str(objects("job.deadline_s=3600")[2]), "no queue, no label of Kueue"


@pytest.mark.parametrize(
    ("asked", "annotation"),
    [
        (
            ("job.kueue.topology=required", "job.kueue.topology_level=a.io/rack"),
            {"kueue.x-k8s.io/podset-required-topology": "a.io/rack"},
        ),
        (
            ("job.kueue.topology=preferred", "job.kueue.topology_level=a.io/block"),
            {"kueue.x-k8s.io/podset-preferred-topology": "a.io/block"},
        ),
        (
            ("job.kueue.topology=unconstrained",),
            {"kueue.x-k8s.io/podset-unconstrained-topology": "true"},
        ),
    ],
)
def test_topology_stands_on_the_workers_pods(
    asked: tuple[str, ...], annotation: dict[str, str]
) -> None:
    worker, rendezvous = pods(*asked, queue="train")
    assert annotation.items() <= worker["metadata"]["annotations"].items()
    assert "kueue" not in str(rendezvous)


def test_growth_under_kueue_is_noted() -> None:
    request = Request(model="senet154", name="a", gpus=64, max_gpus=96, queue="train", **GIVEN)
    nothing = Settings({key: Setting("", "built-in") for key in KEYS}, ())
    notes = resolve(request, nothing, str).notes
    assert any("Kueue evicts" in note and "--max-gpus" in note for note in notes)


@pytest.mark.parametrize(
    ("asked", "scheduler", "policy"),
    [
        (("none",), None, {}),
        (("volcano", "queue=vision"), "volcano", {"queue": "vision"}),
        (("scheduler-plugins", "timeout_s=60"), "scheduler-plugins-scheduler",
         {"scheduleTimeoutSeconds": 60}),
        (("scheduler-plugins", "scheduler_name=mine"), "mine", {}),
        (("kai", "queue=vision"), "kai-scheduler", {}),
    ],
)  # fmt: skip
def test_gangs_are_as_small_as_the_job_may_be(
    asked: tuple[str, ...], scheduler: str | None, policy: dict[str, Any]
) -> None:
    overrides = [f"job.gang.scheduler={asked[0]}", *(f"job.gang.{word}" for word in asked[1:])]
    rendezvous, _, job = objects(*overrides, min_gpus=16)
    assert job["spec"]["runPolicy"]["schedulingPolicy"] == {"minAvailable": 2} | policy
    assert next(pod_templates(job))[1]["spec"].get("schedulerName") == scheduler
    assert "schedulerName" not in next(pod_templates(rendezvous))[1]["spec"]
    marked = [thing for thing in (job["metadata"], next(pod_templates(job))[1]["metadata"])
              if thing["labels"].get("kai.scheduler/queue") == "vision"]  # fmt: skip
    assert len(marked) == (2 if asked[0] == "kai" else 0)


def test_rdma_asks_for_devices_and_locked_memory() -> None:
    worker, _ = pods(
        "job.fabric.kind=rdma", "job.fabric.count=8", "job.fabric.hca=mlx5",
        "job.fabric.interface=eth0", "job.fabric.networks=roce,roce",
    )  # fmt: skip
    pod, container = worker["spec"], worker["spec"]["containers"][0]
    for kind in ("requests", "limits"):
        assert container["resources"][kind]["rdma/ib"] == "8"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert (variables(worker)["NCCL_IB_HCA"], variables(worker)["NCCL_SOCKET_IFNAME"]) == (
        "mlx5",
        "eth0",
    )
    assert worker["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] == "roce,roce"
    assert "hostNetwork" not in pod
    unlimited = pods("job.fabric.kind=rdma", "job.fabric.ipc_lock=false")[0]["spec"]["containers"]
    assert unlimited[0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    host = pods("job.fabric.kind=rdma", "job.fabric.host_network=true")[0]["spec"]
    assert (host["hostNetwork"], host["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


def test_efa_asks_for_devices_and_huge_pages() -> None:
    worker, _ = pods("job.fabric.kind=efa", "job.fabric.count=32")
    container = worker["spec"]["containers"][0]
    wanted = {"vpc.amazonaws.com/efa": "32", "hugepages-2Mi": "5120Mi"}
    for kind in ("requests", "limits"):
        assert wanted.items() <= container["resources"][kind].items()
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert variables(worker)["FI_PROVIDER"] == "efa"


def test_gpu_products_are_taken_in_their_order() -> None:
    one = pods("job.gpu_product=A", "job.node_selector.pool.io/name=gpu")[0]["spec"]
    assert one["nodeSelector"] == {"pool.io/name": "gpu", "nvidia.com/gpu.product": "A"}
    assert "affinity" not in one
    three = pods("job.gpu_product=C, A,B")[0]["spec"]
    assert "nodeSelector" not in three
    node = three["affinity"]["nodeAffinity"]
    key = "nvidia.com/gpu.product"
    assert node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] == [
        {"matchExpressions": [{"key": key, "operator": "In", "values": ["C", "A", "B"]}]}
    ]
    wanted = {
        preferred["preference"]["matchExpressions"][0]["values"][0]: preferred["weight"]
        for preferred in node["preferredDuringSchedulingIgnoredDuringExecution"]
    }
    assert sorted(wanted, key=lambda product: -wanted[product]) == ["C", "A", "B"]
    assert all(1 <= weight <= 100 for weight in wanted.values())


def test_spot_nodes_are_joined_with_the_users_affinity() -> None:
    mine = (
        "job.affinity={nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
        "{nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: Exists}]}]}}, "
        "podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}"
    )
    pod = pods(mine, "job.spot=require", "job.gpu_product=A,B")[0]["spec"]
    node = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert len(node["nodeSelectorTerms"]) == 4, "a term for each cloud"
    for term in node["nodeSelectorTerms"]:
        keys = [expression["key"] for expression in term["matchExpressions"]]
        assert keys[:2] == ["zone", "nvidia.com/gpu.product"]
        assert len(keys) == 3
    assert "podAntiAffinity" in pod["affinity"]
    tolerated = [toleration["key"] for toleration in pod["tolerations"]]
    assert "cloud.google.com/gke-spot" in tolerated
    allowed, rendezvous = pods("job.spot=allow")
    assert [toleration["key"] for toleration in allowed["spec"]["tolerations"]] == tolerated
    assert "affinity" not in allowed["spec"]
    assert "spot" not in str(rendezvous)
    assert "&id" not in to_yaml(objects(mine, "job.spot=require", "job.gpu_product=A,B"))


def test_the_users_variables_come_last_and_are_texts() -> None:
    worker, rendezvous = pods(
        "job.env.NCCL_DEBUG=INFO",
        "job.env.A.B=true",
        "job.env.NUM=3",
        "job.env={AWS_ENDPOINT_URL: 'https://s3.example'}",
        "job.s3_secret=s3",
        "job.env_secrets=[tokens]",
        "job.env_config_maps=[site]",
    )
    found = variables(worker)
    assert {found[name] for name in ("NCCL_DEBUG", "A.B", "NUM")} == {"INFO", "true", "3"}
    assert found["AWS_ENDPOINT_URL"] == "https://s3.example", "in place of the Secret's"
    assert worker["spec"]["containers"][0]["envFrom"] == [
        {"secretRef": {"name": "tokens"}},
        {"configMapRef": {"name": "site"}},
    ]
    assert list(variables(rendezvous)) == ["TMPDIR"]


def test_proxies_spare_the_cluster_and_stand_in_both_spellings() -> None:
    found = variables(pods("job.proxy.https=http://p:3128", "job.proxy.bypass=.corp,10.0.0.1")[0])
    assert found["HTTPS_PROXY"] == found["https_proxy"] == "http://p:3128"
    assert "HTTP_PROXY" not in found
    spared = found["NO_PROXY"].split(",")
    assert found["no_proxy"] == found["NO_PROXY"]
    assert {".svc", ".cluster.local", "169.254.169.254", ".corp", "10.0.0.1"} <= set(spared)
    assert not {"NO_PROXY", "no_proxy"} & set(variables(pods("job.proxy.bypass=.corp")[0]))


def test_certificates_are_mounted_and_named_to_every_library() -> None:
    worker, rendezvous = pods("job.ca_bundle=trust", "job.ca_bundle_key=bundle.pem")
    assert worker["spec"]["volumes"][-1] == {
        "name": "ca-bundle",
        "configMap": {"name": "trust", "items": [{"key": "bundle.pem", "path": "ca.crt"}]},
    }
    mount = worker["spec"]["containers"][0]["volumeMounts"][-1]
    assert mount == {"name": "ca-bundle", "mountPath": "/etc/launcher/ca", "readOnly": True}
    for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        assert variables(worker)[name] == "/etc/launcher/ca/ca.crt"
    assert "ca-bundle" not in str(rendezvous)


def test_workload_identity_is_an_account_without_a_token_of_ours() -> None:
    worker, rendezvous = pods("job.service_account=trainer")
    assert worker["spec"]["serviceAccountName"] == "trainer"
    assert worker["spec"]["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in rendezvous["spec"]


def test_marks_of_the_pods() -> None:
    worker, rendezvous = pods("job.pod_labels.a.io/use=true", "job.pod_annotations.a.io/b=c d")
    assert worker["metadata"]["labels"]["a.io/use"] == "true"
    assert worker["metadata"]["annotations"]["a.io/b"] == "c d"
    assert "a.io" not in str(rendezvous)


@pytest.mark.parametrize("backend", ["pytorchjob", "trainjob"])
def test_only_workers_are_held_until_their_time_is_stored(backend: str) -> None:
    """The rendezvous has no GPU."""
    for is_held in (False, True):
        made = objects(f"job.ledger={str(is_held).lower()}", backend=backend)
        assert problems(made) == []
        holding = [
            template["metadata"]["finalizers"]
            for thing in made
            for _, template in pod_templates(thing)
            if "finalizers" in template["metadata"]
        ]
        assert holding == [["launcher.dev/gpu-ledger"]] * is_held


def test_the_controllers_duties_are_annotations() -> None:
    def duties(*overrides: str) -> list[str]:
        notes = objects(*overrides)[2]["metadata"]["annotations"]
        return [notes[DEADLINE_ANNOTATION], notes[RESTARTS_ALLOWED_ANNOTATION],
                notes[RESTART_WINDOW_ANNOTATION], notes[HANG_ANNOTATION]]  # fmt: skip

    assert duties() == ["0", "20", "3600", "1800"]
    assert duties(
        "job.deadline_s=86400", "job.restarts_allowed=3", "job.restart_window_s=60", "job.hang_s=0"
    ) == ["86400", "3", "60", "0"]


def test_settings_of_a_platform_serve_every_job_that_says_nothing_else() -> None:
    platform = {
        "image_pull_secrets": "one, two",
        "tolerations": "spot:NoSchedule",
        "service_account": "trainer",
        "ca_bundle": "trust",
        "https_proxy": "http://p:3128",
        "no_proxy": ".corp",
        "gpu_product": "A,B",
    }
    known = Settings({key: Setting(platform.get(key, ""), "a file") for key in KEYS}, ())
    request = Request(
        model="senet154", name="a", overrides=("job.service_account=mine",), **GIVEN
    )  # fmt: skip
    job = resolve(request, known, str).spec.job
    assert (job.image_pull_secrets, job.tolerations) == (("one", "two"), ("spot:NoSchedule",))
    assert (job.service_account, job.ca_bundle, job.gpu_product) == ("mine", "trust", "A,B")
    assert (job.proxy.http, job.proxy.https, job.proxy.bypass) == ("", "http://p:3128", ".corp")


def test_on_this_machine_only_the_users_variables_are_left() -> None:
    asked = {"model": "resnet18", "name": "a", "local": True, "data": "file:///d"}
    plain = render(spec(Request(**asked)))
    words = (*EVERYTHING, "job.env.NCCL_DEBUG=INFO")
    with_all = render(spec(Request(**asked, overrides=tuple(w for w in words if "kueue" not in w))))
    env = variables(next(pod_templates(with_all[2]))[1])
    assert env["NCCL_DEBUG"] == "INFO"
    assert "priorityClassName" not in str(with_all[2])
    assert set(env) == set(variables(next(pod_templates(plain[2]))[1]))
