"""What a platform cannot be asked for, what looks like a secret, and how long names may be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import UsageError
from launcher.render import problems, render
from launcher.request import Request
from launcher.resolve import resolve
from launcher.settings import load
from launcher.spec import check_name, default_name, name_most_chars, secret_in
from tests.unit.launcher.goldens import GIVEN, spec
from trainer.config import ConfigError

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")

REFUSED = [
    # names
    ("job.image_pull_secrets=[a_b]", r"job.image_pull_secrets 'a_b'"),
    ("job.image_pull_secrets=['']", "job.image_pull_secrets holds an empty name"),
    ("job.env_secrets=[{a: b}]", r"job.env_secrets holds \{'a': 'b'\}; allowed are texts"),
    ("job.env_config_maps=[A]", "job.env_config_maps 'A'"),
    ("job.service_account=a b", "job.service_account 'a b'"),
    ("job.ca_bundle=a_b", "job.ca_bundle 'a_b'"),
    ("job.ca_bundle_key=a/b", "job.ca_bundle_key 'a/b'"),
    # variables
    ("job.env.1A=x", "job.env names '1A'"),
    ("job.env.PET_NNODES=3", "PET_NNODES, which the launcher sets itself: .*the size"),
    ("job.env.RUN_CONFIG=x", "RUN_CONFIG, .*optim.lr=0.2"),
    ("job.env.TORCH_ELASTIC_SHUTDOWN_TIMEOUT=9", "give job.shutdown_timeout_s"),
    ("job.env.AWS_SECRET_ACCESS_KEY=abcdef", "AWS_SECRET_ACCESS_KEY .*job.env_secrets or job.s3_s"),
    ("job.env.WANDB_API_KEY=abcdef", "WANDB_API_KEY .*readable in the cluster"),
    ("job.env.STORE=https://me:abcdef@host/", "STORE .*an address with a password"),
    # nodes
    ("job.tolerations=[a b]", "job.tolerations holds 'a b'; give KEY"),
    ("job.tolerations=[a:Never]", "'a:Never'; .*NoSchedule, PreferNoSchedule, NoExecute"),
    ("job.tolerations=[a=b c]", "value in job.tolerations 'b c'"),
    ("job.tolerations=[{a: b}]", r"job.tolerations holds \{'a': 'b'\}; allowed are texts"),
    ("job.node_selector={a b: c}", "job.node_selector names 'a b'"),
    ("job.node_selector.a=b c", "job.node_selector a 'b c'"),
    ("job.gpu_product=A,B C", "gpu_product 'B C'"),
    ("job.spot=yes", "job.spot"),
    ("job.pod_labels.launcher.dev/job=b", "sets launcher.dev/job, which launcher, operator"),
    ("job.pod_labels.a=b c", "job.pod_labels a 'b c'"),
    ("job.pod_annotations.kueue.x-k8s.io/x=b", "sets kueue.x-k8s.io/x"),
    ("job.pod_annotations.a b=c", "job.pod_annotations names 'a b'"),
    ("job.pod_annotations.token=abcdef", "token to what looks like a secret"),
    # queues and gangs
    ("job.kueue.priority_class=high", "priority_class is high, but no queue .*--queue"),
    ("job.kueue.max_exec_time_s=60", "max_exec_time_s is 60, but no queue"),
    ("job.kueue.topology=unconstrained", "topology is unconstrained, but no queue"),
    ("queue job.kueue.topology=required", "required and .*topology_level is empty"),
    ("queue job.kueue.topology_level=a", "topology is none and .*topology_level is a"),
    (
        "queue job.kueue.topology=required job.kueue.topology_level=a/b/c",
        "topology_level 'a/b/c' is no node label",
    ),
    ("job.gang.queue=q", "gang.queue is q, but .* is none; only volcano and kai"),
    ("job.gang.scheduler=volcano job.gang.timeout_s=9", "timeout_s is 9, but .* is volcano"),
    ("job.gang.scheduler=slurm", "job.gang.scheduler"),
    ("job.gang.scheduler_name=A", "job.gang.scheduler_name 'A'"),
    # fabric
    ("job.fabric.resource=ib", "resource 'ib' is no device's resource; give one as rdma/ib"),
    ("job.fabric.hca=mlx5", "hca is mlx5, but job.fabric.kind is none"),
    ("job.fabric.host_network=true", "host_network is True, but job.fabric.kind is none"),
    ("job.fabric.kind=efa job.fabric.hugepages_mib=3", "hugepages_mib is 3, .*even number"),
    ("job.fabric.interface=''", "interface '' names no interface"),
    # proxies
    ("job.proxy.http=proxy:3128", "proxy.http: 'proxy:3128' is no proxy; give http://host:port"),
    ("job.proxy.https=http://me:abcdef@proxy:3128", "proxy.https: the address .*Secret"),
    ("job.proxy.bypass=a, b", "bypass 'a, b' holds a space"),
    # duties
    ("job.hang_s=600", r"job.hang_s \(600\) .*must be above world.stall_s \(900\)"),
    ("job.restart_window_s=0", "job.restart_window_s .*at least 1"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "said"), REFUSED)
def test_what_a_platform_cannot_mean_is_one_line(asked: str, said: str) -> None:
    queue = "train" if asked.startswith("queue ") else ""
    words = re.split(r" (?=job\.)", asked.removeprefix("queue "))
    with pytest.raises((UsageError, ConfigError), match=said) as caught:
        spec(Request(model="senet154", queue=queue, overrides=tuple(words), **GIVEN))
    assert "\n" not in str(caught.value)
    assert "abcdef" not in str(caught.value), "a secret is not repeated"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("aws_access_key_id", "x"),
        ("HF_TOKEN", "x"),
        ("PGPASSWORD_PASSWORD", "x"),
        ("GIT_CREDENTIALS", "x"),
        ("A", "AKIA" + "A" * 16),
        ("A", "-----BEGIN RSA PRIVATE KEY-----\nx"),
        ("A", "ghp_" + "a" * 36),
        ("A", "before postgres://me:word@host after"),
    ],
)
def test_what_looks_like_a_secret(name: str, value: str) -> None:
    assert secret_in(name, value)
    assert value not in secret_in(name, value) or len(value) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
        ("SECRET_NAME", "s3"),
        ("HF_TOKEN", ""),
        ("AWS_ENDPOINT_URL", "https://s3.example:443/a"),
        ("A", "s3://bucket/key@2"),
    ],
)
def test_what_does_not(name: str, value: str) -> None:
    assert secret_in(name, value) == ""


def test_truth_values_of_a_file_are_yamls(tmp_path: object) -> None:
    file = f"{tmp_path}/my.yaml"
    with open(file, "w", encoding="utf-8") as out:
        out.write("job: {env: {A: true, B: 3, C: x}, node_selector: {spot: false}}\n")
    job = spec(Request(model=file, **GIVEN)).job
    assert job.env == {"A": "true", "B": "3", "C": "x"}
    assert job.node_selector == {"spot": "false"}


@given(
    model=st.text(max_size=80),
    digest=st.text("0123456789abcdef", min_size=6, max_size=64),
    backend=st.sampled_from(["pytorchjob", "trainjob"]),
    workers=st.integers(1, 100_000),
)
def test_any_model_gives_names_that_pods_may_have(
    model: str, digest: str, backend: str, workers: int
) -> None:
    most_chars = name_most_chars(backend, workers)  # type: ignore[arg-type]
    name = check_name(default_name(model, digest, most_chars), most_chars=most_chars)
    last = workers - 1
    made = {
        "pytorchjob": [f"{name}-worker-{last}", f"{name}-rendezvous"],
        # JobSet's webhook adds five characters before it measures.
        "trainjob": [f"{name}-node-0-{last}-abcde"],
    }
    for pod in made[backend]:
        assert DNS_1035.fullmatch(pod), pod


def test_a_name_is_as_long_as_the_backends_pods_allow() -> None:
    def named(name: str, backend: str) -> str:
        return spec(Request(model="senet154", name=name, gpus=128, backend=backend, **GIVEN)).name

    assert named("a" * 50, "pytorchjob") == "a" * 50
    assert named("a" * 47, "trainjob") == "a" * 47
    with pytest.raises(UsageError, match="at most 47"):
        named("a" * 48, "trainjob")


PAGE = (Path(__file__).parents[3] / "docs/platform.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_of_the_page_render(text: str, tmp_path: Path) -> None:
    said = yaml.safe_load(text)
    files = {"my.yaml": text if "job" in said else "patches: [patch.yaml]", "patch.yaml": text}
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    asked = {"model": str(tmp_path / "my.yaml"), "name": "a"} | GIVEN
    made = render(spec(Request(**asked)))
    assert problems(made) == []
    (tmp_path / "my.yaml").write_text("{}", encoding="utf-8")
    assert made != render(spec(Request(**asked))), "it changes something"


def test_the_settings_of_the_page_exist(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "launcher.toml").write_text(text, encoding="utf-8")
    known = load({"HOME": str(tmp_path)}, tmp_path)
    job = resolve(Request(model="senet154", **GIVEN), known, str).spec.job
    assert (job.service_account, job.ca_bundle, job.proxy.bypass) == (
        "trainer",
        "trust",
        ".corp.example",
    )
