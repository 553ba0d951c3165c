"""What a job asks of its platform, checked: a refusal names key, value and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from launcher.errors import UsageError
from launcher.spec.config import JobConfig
from launcher.spec.names import DOMAIN, check_label, check_object_name
from launcher.spec.secrets import secret_in
from trainer.config import RUN_CONFIG, RUN_INDEX, RUN_INDEXES

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
_LABEL_KEY = re.compile(
    r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_RESOURCE = re.compile(r"[a-z0-9][-a-z0-9.]*/[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_OURS = (
    ("PET_", "the agent's variables follow job.rendezvous and the size"),
    (RUN_INDEXES, "it follows from the number of indexes"),
    (RUN_INDEX, "Kubernetes tells each index which it is"),
    (RUN_CONFIG, "give the run's keys as overrides, as optim.lr=0.2"),
    ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "give job.shutdown_timeout_s"),
    ("TMPDIR", "the root file system is read-only, and scratch is /scratch"),
)


def check_platform(job: JobConfig) -> None:
    """Raises UsageError for the first value that cannot be meant."""
    _check_names(job)
    _check_variables(job)
    _check_placement(job)
    _check_pod_metadata(job)
    _check_queueing(job)
    _check_fabric(job)
    _check_proxy(job)


def parse_toleration(text: str) -> dict[str, str]:
    """A Kubernetes toleration of KEY[=VALUE][:EFFECT], as `kubectl taint` writes taints."""
    rest, _, effect = text.partition(":")
    key, separator, value = rest.partition("=")
    if not _LABEL_KEY.fullmatch(key) or (effect and effect not in EFFECTS):
        raise UsageError(
            f"job.tolerations holds {text!r}; give KEY[=VALUE][:EFFECT], the effect one of "
            f"{', '.join(EFFECTS)}"
        )
    check_label(value, "value in job.tolerations")
    found = {"key": key, "operator": "Equal" if separator else "Exists"}
    if separator:
        found["value"] = value
    return found | ({"effect": effect} if effect else {})


def gpu_products(job: JobConfig) -> list[str]:
    """The kinds of GPU that will do, best first."""
    return [product for product in re.split(r"\s*,\s*", job.gpu_product.strip()) if product]


def _check_names(job: JobConfig) -> None:
    for key in ("image_pull_secrets", "env_secrets", "env_config_maps"):
        for name in _texts(getattr(job, key), f"job.{key}"):
            if not name:
                raise UsageError(f"job.{key} holds an empty name; leave it out")
            check_object_name(name, f"job.{key}")
    check_object_name(job.service_account, "job.service_account")
    check_object_name(job.ca_bundle, "job.ca_bundle")
    if not re.fullmatch(r"[-._a-zA-Z0-9]+", job.ca_bundle_key):
        raise UsageError(
            f"job.ca_bundle_key {job.ca_bundle_key!r} cannot be a ConfigMap's key; allowed are "
            "letters, digits, '-', '_' and '.'"
        )


def _check_variables(job: JobConfig) -> None:
    for name, value in job.env.items():
        if not _VARIABLE.fullmatch(name):
            raise UsageError(f"job.env names {name!r}, which cannot be a variable's name")
        for start, instead in _OURS:
            if name == start or (start.endswith("_") and name.startswith(start)):
                raise UsageError(f"job.env sets {name}, which the launcher sets itself: {instead}")
        why = secret_in(name, value)
        if why:
            raise UsageError(
                f"job.env sets {name} to a value that stays readable in the cluster ({why}); put "
                "it into a Secret and name that in job.env_secrets or job.s3_secret"
            )


def _check_placement(job: JobConfig) -> None:
    for text in _texts(job.tolerations, "job.tolerations"):
        parse_toleration(text)
    _check_labels(job.node_selector, "job.node_selector")
    for product in gpu_products(job):
        check_label(product, "gpu_product")


def _check_pod_metadata(job: JobConfig) -> None:
    _check_labels(job.pod_labels, "job.pod_labels")
    for key, value in job.pod_annotations.items():
        if not _LABEL_KEY.fullmatch(key):
            raise UsageError(f"job.pod_annotations names {key!r}, which cannot be a key")
        if why := secret_in(key, value):
            raise UsageError(f"job.pod_annotations sets {key} to what looks like a secret ({why})")
    for key in (*job.pod_labels, *job.pod_annotations):
        if key.partition("/")[0] in (DOMAIN, "training.kubeflow.org", "kueue.x-k8s.io"):
            raise UsageError(
                f"job.pod_labels or job.pod_annotations sets {key}, which launcher, operator and "
                "queue rest on; give the keys of job that lead to it"
            )


def _check_queueing(job: JobConfig) -> None:
    kueue, gang = job.kueue, job.gang
    check_object_name(kueue.priority_class, "job.kueue.priority_class")
    if not job.queue:
        for key, given in (
            ("priority_class", kueue.priority_class),
            ("max_exec_time_s", kueue.max_exec_time_s),
            ("topology", kueue.topology != "none" and kueue.topology),
        ):
            if given:
                raise UsageError(f"job.kueue.{key} is {given}, but no queue is given; give --queue")
    needs_level = kueue.topology in ("required", "preferred")
    if needs_level != bool(kueue.topology_level):
        raise UsageError(
            f"job.kueue.topology is {kueue.topology} and job.kueue.topology_level is "
            f"{kueue.topology_level or 'empty'}; a level goes with required or preferred"
        )
    if needs_level and not _LABEL_KEY.fullmatch(kueue.topology_level):
        raise UsageError(
            f"job.kueue.topology_level {kueue.topology_level!r} is no node label; give one as "
            "cloud.provider.com/topology-block"
        )
    check_object_name(gang.queue, "job.gang.queue")
    check_object_name(gang.scheduler_name, "job.gang.scheduler_name")
    if gang.queue and gang.scheduler not in ("volcano", "kai"):
        raise UsageError(
            f"job.gang.queue is {gang.queue}, but job.gang.scheduler is {gang.scheduler}; only "
            "volcano and kai have queues (Kueue's is --queue)"
        )
    if gang.timeout_s and gang.scheduler != "scheduler-plugins":
        raise UsageError(
            f"job.gang.timeout_s is {gang.timeout_s}, but job.gang.scheduler is {gang.scheduler}; "
            "only scheduler-plugins takes it"
        )


def _check_fabric(job: JobConfig) -> None:
    fabric = job.fabric
    if fabric.resource and not _RESOURCE.fullmatch(fabric.resource):
        raise UsageError(
            f"job.fabric.resource {fabric.resource!r} is no device's resource; give one as rdma/ib"
        )
    if fabric.kind == "none":
        for key in ("resource", "host_network", "networks", "hca"):
            if given := getattr(fabric, key):
                raise UsageError(
                    f"job.fabric.{key} is {given}, but job.fabric.kind is none; give rdma or efa"
                )
    if fabric.hugepages_mib % 2:
        raise UsageError(
            f"job.fabric.hugepages_mib is {fabric.hugepages_mib}, but pages have 2 MiB; give an "
            "even number"
        )
    if not fabric.interface or any(character.isspace() for character in fabric.interface):
        raise UsageError(
            f"job.fabric.interface {fabric.interface!r} names no interface; give one as eth0 or "
            "^lo,docker"
        )


def _check_proxy(job: JobConfig) -> None:
    for key in ("http", "https"):
        address = getattr(job.proxy, key)
        if address and not re.fullmatch(r"https?://[^\s/@]+/?", address):
            shown = "the address" if "@" in address else repr(address)
            raise UsageError(
                f"job.proxy.{key}: {shown} is no proxy; give http://host:port, without a password "
                "(one that needs it belongs into a Secret of job.env_secrets, as HTTPS_PROXY)"
            )
    if any(character.isspace() for character in job.proxy.bypass):
        raise UsageError(
            f"job.proxy.bypass {job.proxy.bypass!r} holds a space; separate hosts by commas"
        )


def _check_labels(labels: Mapping[str, str], where: str) -> None:
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise UsageError(f"{where} names {key!r}, which cannot be a label's key")
        check_label(value, f"{where} {key}")


def _texts(values: tuple[object, ...], where: str) -> Iterator[str]:
    """The entries of a list of texts: the configuration's loader lets others through."""
    for value in values:
        if not isinstance(value, str):
            raise UsageError(f"{where} holds {value!r}; allowed are texts, as [a, b]")
        yield value
