"""The variables of a pod: our own, the platform's, and the user's last."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.errors import UsageError
from launcher.render.objects import Object
from launcher.spec import IndexedSpec, JobConfig, JobSpec, Spec
from trainer.config import RUN_CONFIG, RUN_INDEXES, dump

RUN_CONFIG_MOST_BYTES = 120 * 1024
"""Linux takes about 128 KiB in one environment variable."""

S3_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
)
"""Keys of the same names in the job's S3 Secret; all but the first two may be absent."""

SCRATCH = "/scratch"
CA_FOLDER, CA_FILE = "/etc/launcher/ca", "ca.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
"""OpenSSL and Python, boto3, requests: each replaces the certificates of the image."""

NEVER_PROXIED = (
    "localhost",
    "127.0.0.1",
    ".svc",
    ".cluster.local",
    # Where AWS and Google hand out a workload's identity.
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "metadata.google.internal",
)


def environment(spec: Spec, base: list[Object], ours: Mapping[str, str]) -> list[Object]:
    """The variables of a pod in their order; a later one of the same name takes its place.

    ours: what `worker_variables` or `index_variables` tell.
    """
    job = spec.job
    entries = [*base, *_plain(ours)]
    if not spec.local:
        entries += _s3(job.s3_secret) + _plain(_proxy(job) | _certificates(job))
    entries += _plain(job.env)
    return list({entry["name"]: entry for entry in entries}.values())


def worker_variables(spec: JobSpec) -> dict[str, str]:
    """What a worker of a group is told."""
    job = spec.job
    ours = {
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(job.shutdown_timeout_s),
        RUN_CONFIG: _run_config(spec),
    }
    if spec.local:
        return ours
    threads = {"OMP_NUM_THREADS": str(max(1, job.cpu_per_gpu // 2))}
    network = {"NCCL_SOCKET_IFNAME": job.fabric.interface}
    return ours | {"TMPDIR": SCRATCH} | network | threads | _fabric(job)


def index_variables(spec: IndexedSpec) -> dict[str, str]:
    """What each index is told; which of them it is, Kubernetes adds."""
    ours = {RUN_CONFIG: _run_config(spec), RUN_INDEXES: str(spec.indexes)}
    if spec.local:
        return ours
    return ours | {"TMPDIR": SCRATCH, "OMP_NUM_THREADS": str(spec.size.cpus)}


def _plain(values: Mapping[str, str]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _s3(secret: str) -> list[Object]:
    """References to the Secret's keys, never their values."""
    if not secret:
        return []
    return [
        {
            "name": name,
            "valueFrom": {
                "secretKeyRef": {"name": secret, "key": name, "optional": index > 1}
            },
        }
        for index, name in enumerate(S3_VARIABLES)
    ]  # fmt: skip


def _fabric(job: JobConfig) -> dict[str, str]:
    found = {}
    if job.fabric.kind == "efa":
        found["FI_PROVIDER"] = "efa"
    if job.fabric.hca:
        found["NCCL_IB_HCA"] = job.fabric.hca
    return found


def _proxy(job: JobConfig) -> dict[str, str]:
    """Both spellings: libraries differ in which they read."""
    proxy = job.proxy
    if not (proxy.http or proxy.https):
        return {}
    bypass = [*NEVER_PROXIED, *(host for host in proxy.bypass.split(",") if host)]
    values = {"HTTP_PROXY": proxy.http, "HTTPS_PROXY": proxy.https, "NO_PROXY": ",".join(bypass)}
    values = {name: value for name, value in values.items() if value}
    return values | {name.lower(): value for name, value in values.items()}


def _certificates(job: JobConfig) -> dict[str, str]:
    path = f"{CA_FOLDER}/{CA_FILE}"
    return dict.fromkeys(CA_VARIABLES, path) if job.ca_bundle else {}


def _run_config(spec: Spec) -> str:
    text = dump(spec.config)
    size = len(text.encode())
    if size > RUN_CONFIG_MOST_BYTES:
        raise UsageError(
            f"the run of job {spec.name} takes {size} bytes as {RUN_CONFIG}; at most "
            f"{RUN_CONFIG_MOST_BYTES} fit an environment variable, so shorten its values"
        )
    return text
